"""`ogb:NAME`: OGB's node-property sets, read from their raw files (arXiv 2005.00687).

The raw layouts are read here, a chunk of rows at a time, and not by ogb's own classes: those hold every array twice in
memory, load a pickle that torch >= 2.6 refuses, and ask questions on standard input. ogb gives its table of sets
(master.csv) and its Evaluator. Nor does its download serve: it asks before a large set, has no time limit, and takes a
file that is there, half or whole, for the set.
"""

from __future__ import annotations

import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources.raw import (
    RawGraph,
    SourceContext,
    SourceSplit,
    describe_file,
    hash_files,
    stage_download,
)
from gnnsoup_hpc.errors import UNREADABLE, GraphError
from gnnsoup_hpc.types import IntArray, Role, Targets
from gnnsoup_hpc.utils import paths
from gnnsoup_hpc.utils.out_of_core import FileRows, Rows, blocks, index_type, reserve

CELLS = 1 << 23  # of a table, read together
_TIMEOUT_SECONDS = 60.0
_CITES = "relations/paper___cites___paper"
_FROM_EDGES = "features of nodes are the mean of those of their edges, of which nothing else is used"
_SPLIT = {Role.TRAIN: "train.csv.gz", Role.VALIDATION: "valid.csv.gz", Role.TEST: "test.csv.gz"}

# (edges (2, E), int32 where node ids fit; features; labels as `Graph` has them; files that were read)
Contents = tuple[npt.NDArray[Any], Rows, Targets, list[Path]]


def read(name: str, job: GraphJob, context: SourceContext) -> RawGraph:
    """The set `name` under `graph.root`, with OGB's split; downloaded first where it is not there.

    A set without features of nodes (ogbn-proteins) gets the mean of those of its edges at each node, as OGB's own
    example has it. Raises: GraphError for an unknown set, a missing, truncated or corrupted file.
    """
    about = _find_set(name)
    home = _find_home(name, about, job, context)
    hetero = about["is hetero"] == "True"  # of which the papers alone are read, which have the labels
    binary = about["binary"] == "True"
    labels = int(about["num tasks"])
    if about["has_node_attr"] == "False":
        ends, x, y, used = _read_edge_tables(home, labels)
    else:
        ends, x, y, used = _read_binary(home, context) if binary else _read_tables(home, hetero, context)
    folder = home / "split" / about["split"] / ("paper" if hetero else "")
    parts = {role: folder / part for role, part in _SPLIT.items()}
    split = {role: np.concatenate([ids for _, ids in _read_table(path, 1, "split")]) for role, path in parts.items()}
    files = tuple(describe_file(path) for path in [*used, *parts.values()])
    return RawGraph(
        where=str(home),
        sha256=hash_files(files),
        x=x,
        y=y,
        source=ends[0],
        destination=ends[1],
        classes=int(about["num classes"]) if labels == 1 else labels,
        splits={"public": SourceSplit({role: [ids[:, 0].astype(np.int64)] for role, ids in split.items()})},
        files=files,
        inverse=about["add_inverse_edge"] == "True",
        notes=() if about["has_node_attr"] == "True" else (_FROM_EDGES,),
        targets="classes" if labels == 1 else "multilabel",
        found="classes" if labels == 1 else "multilabel",
    )


def evaluate(name: str, predicted: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Accuracy, or of several labels ROC-AUC, by ogb's own Evaluator of the set `name`; (n,) or (n, T)."""
    sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]  # or ogb asks PyPI for its newest version
    from ogb.nodeproppred import Evaluator

    rows = len(targets), -1
    (found,) = Evaluator(name).eval({"y_true": targets.reshape(rows), "y_pred": predicted.reshape(rows)}).values()
    return float(found)


def _find_set(name: str) -> Any:
    """What the installed ogb says of a set, texts by name. The package is not imported: that would ask the network."""
    import pandas as pd

    spec = find_spec("ogb")
    if spec is None or spec.origin is None:
        raise GraphError("ogb: sources need the package ogb: pip install ogb")
    table = Path(spec.origin).parent / "nodeproppred" / "master.csv"
    sets = pd.read_csv(table, index_col=0, dtype=str, encoding="utf-8")
    if name not in sets:
        raise GraphError(f"graph.source = 'ogb:{name}': OGB has no such set; it has: {', '.join(sets)}")
    return sets[name]


def _find_home(name: str, about: Any, job: GraphJob, context: SourceContext) -> Path:
    """The set's folder, complete and of the version that ogb knows."""
    root, folder = paths.expand(job.root, "graph.root"), name.replace("-", "_")
    home = root / f"{folder}_pyg"  # ogb looks here first
    if not home.is_dir():
        home = root / folder
    if not home.exists():
        _download(name, about, home, context)
    release = f"RELEASE_v{about['version']}.txt"
    if not (home / release).is_file():
        raise GraphError(
            f"{home} is not a complete version {about['version']} of {name}: {release} is missing (half downloaded, or"
            f" another version); remove the folder {home} and prepare again, which downloads the set anew"
        )
    return home


def _download(name: str, about: Any, home: Path, context: SourceContext) -> None:
    """Download and unpack a set to `home`, which appears only once it is whole; nothing is asked.

    Raises: GraphError where downloads are not allowed, or fail.
    """
    url = about["url"]
    if context.offline:
        context.announce_download(name, home, "size unknown")
    try:
        with stage_download(home) as private:
            archive = private / "archive.zip"
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer, archive.open("wb") as file:
                size = int(answer.headers["Content-Length"])
                context.announce_download(name, home, f"{size / 2**20:.1f} MiB from {url}")
                reserve(file.fileno(), size)
                shutil.copyfileobj(answer, file)
                if file.tell() != size:
                    raise OSError(f"the connection ended after {file.tell()} of {size} bytes")
            with zipfile.ZipFile(archive) as content:
                content.extractall(private)
            (private / about["download_name"]).rename(home)
    except UNREADABLE as error:
        raise GraphError(f"{name} cannot be downloaded from {url} to {home}: {error}") from None


def _describe_damage(path: Path, error: BaseException) -> GraphError:
    reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
    return GraphError(
        f"{path} is missing, truncated or damaged ({reason}): remove the set's folder and prepare again, which"
        " downloads the set anew"
    )


# ---- tables


def _read_tables(home: Path, hetero: bool, context: SourceContext) -> Contents:
    """hetero: of several types of nodes, papers and the citations among them are read."""
    edge = feature = label = raw = home / "raw"
    if hetero:
        edge, feature, label = raw / _CITES, raw / "node-feat/paper", raw / "node-label/paper"
        nodes = _read_count(raw / "num-node-dict.csv.gz", "paper")
    else:
        nodes = _read_count(raw / "num-node-list.csv.gz")
    edges = _read_count(edge / "num-edge-list.csv.gz")
    used = [edge / "edge.csv.gz", feature / "node-feat.csv.gz", label / "node-label.csv.gz"]
    ends = np.empty((2, edges), dtype=index_type(nodes))
    for rows, chunk in _read_table(used[0], 2, "edges", edges):
        ends[:, rows] = chunk.T
    for rows, chunk in _read_table(used[1], 128, "rows", nodes):
        if rows.start == 0:
            x = FileRows.create(context.scratch / "node-feat", (nodes, chunk.shape[1]), np.float64)
        x[rows] = chunk
    y = np.empty(nodes)
    for rows, chunk in _read_table(used[2], 1, "labels", nodes):
        y[rows] = chunk[:, 0]
    return ends, x, _to_classes(y), used


def _read_edge_tables(home: Path, labels: int) -> Contents:
    """Of a set whose edges have features and whose nodes have none, and several yes-or-no labels each."""
    raw = home / "raw"
    nodes, edges = _read_count(raw / "num-node-list.csv.gz"), _read_count(raw / "num-edge-list.csv.gz")
    used = [raw / "edge.csv.gz", raw / "edge-feat.csv.gz", raw / "node-label.csv.gz"]
    ends = np.empty((2, edges), dtype=index_type(nodes))
    for rows, chunk in _read_table(used[0], 2, "edges", edges):
        ends[:, rows] = chunk.T
    sums = np.empty((nodes, 0))
    for rows, chunk in _read_table(used[1], 16, "rows", edges):
        sums = np.zeros((nodes, chunk.shape[1])) if rows.start == 0 else sums
        for column, values in enumerate(chunk.T):
            for side in ends[:, rows]:
                sums[:, column] += np.bincount(side, values, nodes)
    degrees = sum(np.bincount(side, minlength=nodes) for side in ends)
    y = np.empty((nodes, labels), dtype=np.float32)
    for rows, chunk in _read_table(used[2], labels, "labels", nodes):
        y[rows] = chunk
    return ends, sums / np.maximum(1, degrees)[:, None], y, used


def _to_classes(y: npt.NDArray[Any]) -> IntArray:
    return np.where(np.isnan(y), -1.0, y).astype(np.int64)


def _read_table(path: Path, width: int, what: str, count: int | None = None) -> Iterator[tuple[slice, Any]]:
    """A table's rows, some million cells at a time, and where in it they are.

    Raises: GraphError for a table that is damaged, or has fewer rows than `count`, or more.
    """
    import pandas as pd

    at = 0
    try:
        with pd.read_csv(path, compression="gzip", header=None, chunksize=max(1, CELLS // width)) as chunks:
            for chunk in chunks:
                values = chunk.to_numpy()
                if values.dtype.kind not in "fiu":
                    raise ValueError(f"{what} that are no numbers")
                rows = slice(at, at := at + len(values))
                if count is not None and at > count:
                    raise ValueError(f"it has more than the {count} {what} that the set states")
                yield rows, values
        if count not in (None, at):
            raise ValueError(f"it has {at} {what} where the set states {count}")
    except UNREADABLE as error:
        raise _describe_damage(path, error) from None


def _read_count(path: Path, name: str | None = None) -> int:
    """The number that a table of one number holds; with `name`, that of its column `name`."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, compression="gzip", header=None if name is None else 0)
        return int(frame[0 if name is None else name].iloc[0])
    except UNREADABLE as error:
        raise _describe_damage(path, error) from None


# ---- archives


def _read_binary(home: Path, context: SourceContext) -> Contents:
    data, label = home / "raw" / "data.npz", home / "raw" / "node-label.npz"
    with _open_archive(data) as archive:
        nodes = int(archive["num_nodes_list"][0])
        ends = _read_ends(archive, nodes)
        x = _read_features(archive, nodes, context)
    with _open_archive(label) as archive:
        y = archive["node_label"].reshape(-1).astype(np.float64)
        if len(y) != nodes:
            raise ValueError(f"it has {len(y)} labels for {nodes} nodes")
    return ends, x, _to_classes(y), [data, label]


@contextmanager
def _open_archive(path: Path) -> Iterator[Any]:
    """Arrays by name. Raises: GraphError for an archive that is damaged, wherever in the block that shows."""
    try:
        with np.load(path) as archive:
            yield archive
    except UNREADABLE as error:
        raise _describe_damage(path, error) from None


def _read_ends(archive: Any, nodes: int) -> npt.NDArray[Any]:
    """(2, E), int32 where node ids fit."""
    with _open_array(archive, "edge_index") as (shape, kind, order, read):
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(f"edge_index has shape {shape}, expected (2, E)")
        ends = np.empty(shape, index_type(nodes), order)
        flat = ends.reshape(-1, order="A")  # a view, in the order of the file
        for block in blocks(flat.size, kind.itemsize):
            flat[block] = read(block.stop - block.start)
    return ends


def _read_features(archive: Any, nodes: int, context: SourceContext) -> Rows:
    with _open_array(archive, "node_feat") as (shape, kind, order, read):
        if order == "F":
            raise ValueError("node_feat is laid out by columns, and cannot be read in blocks of rows")
        if len(shape) != 2 or shape[0] != nodes:
            raise ValueError(f"node_feat has shape {shape}, expected ({nodes}, F)")
        rows = FileRows.create(context.scratch / "node-feat", (nodes, shape[1]), kind)
        for block in blocks(nodes, shape[1] * kind.itemsize):
            count = block.stop - block.start
            rows[block] = read(count * shape[1]).reshape(count, shape[1])
    return rows


@contextmanager
def _open_array(
    archive: Any, name: str
) -> Iterator[tuple[tuple[int, ...], np.dtype[Any], Any, Callable[[int], npt.NDArray[Any]]]]:
    """Shape, type and order ("C" or "F") of an array too large to be read at once, and what reads its next numbers."""
    with archive.zip.open(f"{name}.npy") as file:
        formats = np.lib.format
        old = formats.read_magic(file) == (1, 0)
        read_header = formats.read_array_header_1_0 if old else formats.read_array_header_2_0
        shape, in_columns, kind = read_header(file)

        def read(count: int) -> npt.NDArray[Any]:
            content = file.read(count * kind.itemsize)
            if len(content) != count * kind.itemsize:
                raise EOFError("an array ends too early")
            return np.frombuffer(content, dtype=kind)

        yield shape, kind, "F" if in_columns else "C", read
