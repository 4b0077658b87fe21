"""Tiny sets in the raw layouts that OGB and PyG download, with what they hold."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data import sources
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext

NODES, FEATURES = 60, 5


@dataclass(frozen=True)
class Content:
    """What a layout holds. Shapes: x (V, F), y (V, 1), edges (2, E)."""

    x: np.ndarray
    y: np.ndarray
    edges: np.ndarray
    split: dict[str, np.ndarray]


def content(seed: int = 0, classes: int = 3, unlabelled: bool = False) -> Content:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, (NODES, 1)).astype(float)
    ids = np.split(rng.permutation(NODES), [20, 40])
    if unlabelled:
        y[ids[2][15:]] = np.nan
        ids[2] = ids[2][:15]
    x = rng.normal(size=(NODES, FEATURES)).astype(np.float32).round(4)
    edges = np.unique(rng.integers(0, NODES, (2, 200)), axis=1)
    return Content(x, y, edges, dict(zip(("train", "valid", "test"), ids, strict=True)))


def table(path: Path, rows: np.ndarray, header: str = "") -> None:
    text = io.StringIO()
    for row in np.atleast_2d(rows):
        text.write(",".join("" if value != value else f"{value:g}" for value in row) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write(f"{header}\n" * bool(header) + text.getvalue())


def ogb_tables(root: Path, name: str, split: str, seed: int = 0) -> tuple[Path, Content]:
    """The layout of ogbn-arxiv and ogbn-products."""
    home, holds = root / name, content(seed)
    table(home / "raw/edge.csv.gz", holds.edges.T)
    table(home / "raw/node-feat.csv.gz", holds.x)
    table(home / "raw/node-label.csv.gz", holds.y)
    table(home / "raw/num-node-list.csv.gz", np.array([[NODES]]))
    table(home / "raw/num-edge-list.csv.gz", np.array([[holds.edges.shape[1]]]))
    _finish(home, holds, home / "split" / split, 1)
    return home, holds


def ogb_proteins(root: Path, labels: int = 112) -> tuple[Path, Content]:
    """The layout of ogbn-proteins: no features of nodes, eight of edges, 112 labels; here some are missing."""
    home, holds = root / "ogbn_proteins", content(6)
    rng = np.random.default_rng(7)
    likely = rng.random((NODES, 1)) * rng.random(labels)
    y = np.where(rng.random((NODES, labels)) < 0.1, np.nan, rng.random((NODES, labels)) < likely)
    y[:, 0] = np.arange(NODES) % 2
    table(home / "raw/edge.csv.gz", holds.edges.T)
    table(home / "raw/edge-feat.csv.gz", rng.random((holds.edges.shape[1], 8)).round(3))
    table(home / "raw/node-label.csv.gz", y)
    table(home / "raw/num-node-list.csv.gz", np.array([[NODES]]))
    table(home / "raw/num-edge-list.csv.gz", np.array([[holds.edges.shape[1]]]))
    _finish(home, holds, home / "split" / "species", 1)
    return home, replace(holds, y=y)


def ogb_papers_of_mag(root: Path) -> tuple[Path, Content]:
    """The layout of ogbn-mag, with authors beside the papers."""
    home, holds = root / "ogbn_mag", content(1)
    cites = home / "raw/relations/paper___cites___paper"
    table(cites / "edge.csv.gz", holds.edges.T)
    table(cites / "num-edge-list.csv.gz", np.array([[holds.edges.shape[1]]]))
    table(home / "raw/node-feat/paper/node-feat.csv.gz", holds.x)
    table(home / "raw/node-label/paper/node-label.csv.gz", holds.y)
    table(home / "raw/num-node-dict.csv.gz", np.array([[7, NODES]]), header="author,paper")
    with gzip.open(home / "raw/triplet-type-list.csv.gz", "wt") as file:
        file.write("paper,cites,paper\n")
    _finish(home, holds, home / "split/time/paper", 2)
    return home, holds


def ogb_binary(root: Path) -> tuple[Path, Content]:
    """The layout of ogbn-papers100M, where many nodes have no label."""
    home, holds = root / "ogbn_papers100M", content(2, unlabelled=True)
    (home / "raw").mkdir(parents=True)
    sizes = {"num_nodes_list": np.array([NODES]), "num_edges_list": np.array([holds.edges.shape[1]])}
    np.savez_compressed(home / "raw/data.npz", edge_index=holds.edges, node_feat=holds.x, **sizes)
    np.savez_compressed(home / "raw/node-label.npz", node_label=holds.y)
    _finish(home, holds, home / "split/time", 1)
    return home, holds


def _finish(home: Path, holds: Content, split: Path, version: int) -> None:
    for part, ids in holds.split.items():
        table(split / f"{part}.csv.gz", ids[:, None])
    (home / f"RELEASE_v{version}.txt").write_text("")


def amazon(root: Path, name: str = "Computers", seed: int = 3) -> tuple[Path, Content]:
    """PyG's Amazon: one archive of CSR matrices."""
    folder, holds = root / name / "raw", content(seed)
    folder.mkdir(parents=True)
    adjacency = sp.coo_matrix((np.ones(holds.edges.shape[1]), tuple(holds.edges)), shape=(NODES, NODES)).tocsr()
    features = sp.csr_matrix((holds.x > 0).astype(np.float32))
    arrays = {"labels": holds.y[:, 0].astype(np.int64)}
    for prefix, matrix in (("adj", adjacency), ("attr", features)):
        arrays |= {f"{prefix}_{part}": getattr(matrix, part) for part in ("data", "indices", "indptr", "shape")}
    np.savez(folder / f"amazon_electronics_{name.lower()}.npz", **arrays)
    return folder, holds


def flickr(root: Path) -> tuple[Path, Content]:
    """PyG's Flickr, with its own split."""
    folder, holds = root / "Flickr" / "raw", content(4)
    folder.mkdir(parents=True)
    adjacency = sp.coo_matrix((np.ones(holds.edges.shape[1]), tuple(holds.edges)), shape=(NODES, NODES)).tocsr()
    arrays = {part: getattr(adjacency, part) for part in ("data", "indices", "indptr", "shape")}
    np.savez(folder / "adj_full.npz", **arrays)
    np.save(folder / "feats.npy", holds.x)
    (folder / "class_map.json").write_text(json.dumps({str(i): int(c) for i, c in enumerate(holds.y[:, 0])}))
    roles = {theirs: holds.split[ours].tolist() for theirs, ours in (("tr", "train"), ("va", "valid"), ("te", "test"))}
    (folder / "role.json").write_text(json.dumps(roles))
    return folder, holds


def read(source: str, root: Path, offline: bool = True, **options: object) -> RawGraph:
    """A source's graph, with a scratch folder under the root; what it says is kept in `said`."""
    scratch = root / "scratch"
    scratch.mkdir(exist_ok=True)
    return sources.read(GraphJob(source=source, root=str(root), **options), SourceContext(scratch, offline))


@contextmanager
def changed(path: Path, seed: int = 0) -> Iterator[None]:
    """A byte in the middle flipped, and put back."""
    whole = path.read_bytes()
    place = len(whole) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    yield
    path.write_bytes(whole)
