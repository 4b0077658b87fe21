"""OGB's sets: every layout against ogb's own readers, nothing asked, nothing fetched unless it may be."""

from __future__ import annotations

import io
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources import ogb
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from tests import runs
from tests.data.sources import layouts
from tests.data.sources.layouts import Content, read

sys.modules.setdefault("outdated", None)  # ogb asks PyPI for its newest version otherwise

LAYOUTS: dict[str, Callable[[Path], tuple[Path, Content]]] = {
    "ogbn-arxiv": lambda root: layouts.ogb_tables(root, "ogbn_arxiv", "time"),
    "ogbn-products": lambda root: layouts.ogb_tables(root, "ogbn_products", "sales_ranking", seed=5),
    "ogbn-mag": layouts.ogb_papers_of_mag,
    "ogbn-papers100M": layouts.ogb_binary,
    "ogbn-proteins": layouts.ogb_proteins,
}
every_layout = pytest.mark.parametrize("name", LAYOUTS)


def by_ogb(name: str, home: Path) -> dict[str, Any]:
    """x, edges as ogb's own readers have them."""
    from ogb.io import read_graph_raw as theirs

    raw = str(home / "raw")
    if name == "ogbn-mag":
        (graph,) = theirs.read_csv_heterograph_raw(raw)
        paper = {"x": graph["node_feat_dict"]["paper"]}
        return paper | {"edges": graph["edge_index_dict"]["paper", "cites", "paper"]}
    reader = theirs.read_binary_graph_raw if name == "ogbn-papers100M" else theirs.read_csv_graph_raw
    (graph,) = reader(raw, add_inverse_edge=name in ("ogbn-products", "ogbn-proteins"))
    if name == "ogbn-proteins":  # the mean over in-edges, as examples/nodeproppred/proteins has it
        features = np.zeros((layouts.NODES, 8))
        np.add.at(features, graph["edge_index"][1], graph["edge_feat"])
        degrees = np.bincount(graph["edge_index"][1], minlength=layouts.NODES)
        graph["node_feat"] = features / np.maximum(1, degrees)[:, None]
    return {"x": graph["node_feat"], "edges": graph["edge_index"]}


def pairs(source: np.ndarray, destination: np.ndarray) -> list[tuple[int, int]]:
    return sorted(zip(source.tolist(), destination.tolist(), strict=True))


@every_layout
def test_every_layout_is_read_as_ogb_reads_it(name: str, tmp_path: Path) -> None:
    home, holds = LAYOUTS[name](tmp_path)
    wanted = by_ogb(name, home)
    found = read(f"ogb:{name}", tmp_path, undirected=False)
    np.testing.assert_allclose(found.x[:], wanted["x"], rtol=1e-6 if name == "ogbn-proteins" else 1e-7)
    edges = np.stack([found.source, found.destination])
    both = np.concatenate([edges, edges[::-1]], axis=1) if found.inverse else edges
    assert pairs(*both) == pairs(*wanted["edges"])
    assert found.source.dtype == np.int32
    assert found.x[:2].dtype == (np.float32 if "papers" in name else np.float64)  # a table's numbers as they are read
    if name == "ogbn-proteins":
        np.testing.assert_array_equal(found.y, holds.y.astype(np.float32))
        assert (found.targets, found.classes, found.y.shape[1]) == ("multilabel", 112, 112)
    else:
        assert np.array_equal(found.y, np.where(np.isnan(holds.y[:, 0]), -1, holds.y[:, 0]).astype(np.int64))
    roles = {"train": Role.TRAIN, "valid": Role.VALIDATION, "test": Role.TEST}
    for part, role in roles.items():
        assert np.array_equal(found.splits["public"].ids(0)[role], holds.split[part])
    classes = {"arxiv": 40, "products": 47, "mag": 349, "papers100M": 172, "proteins": 112}
    assert found.classes == classes[name.removeprefix("ogbn-")]


@every_layout
def test_chunks_do_not_matter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[name](tmp_path)
    whole = read(f"ogb:{name}", tmp_path)
    monkeypatch.setattr(ogb, "CELLS", 300)
    pieces = read(f"ogb:{name}", tmp_path)
    np.testing.assert_allclose(pieces.x[:], whole.x[:], rtol=1e-12 if name == "ogbn-proteins" else 0.0)
    np.testing.assert_array_equal(whole.y, pieces.y)
    assert pairs(whole.source, whole.destination) == pairs(pieces.source, pieces.destination)


def files_of(name: str, root: Path) -> list[Path]:
    home, _ = LAYOUTS[name](root)
    kinds = (
        "edge.csv.gz",
        "edge-feat.csv.gz",
        "node-feat.csv.gz",
        "node-label.csv.gz",
        "data.npz",
        "node-label.npz",
        "valid.csv.gz",
    )
    return [path for path in sorted(home.rglob("*")) if path.name in kinds]


def one_line(caught: pytest.ExceptionInfo[GraphError], path: Path) -> None:
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert "prepare again" in text


@every_layout
def test_a_corrupted_truncated_or_missing_file_is_named(name: str, tmp_path: Path) -> None:
    for path in files_of(name, tmp_path):
        with layouts.changed(path), pytest.raises(GraphError) as caught:
            read(f"ogb:{name}", tmp_path)
        one_line(caught, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(GraphError) as caught:
            read(f"ogb:{name}", tmp_path)
        one_line(caught, path)
        path.unlink()
        with pytest.raises(GraphError) as caught:
            read(f"ogb:{name}", tmp_path)
        one_line(caught, path)
        path.write_bytes(whole)
    read(f"ogb:{name}", tmp_path)


@pytest.mark.parametrize("table_of", ["edge", "node-feat", "node-label"])
@pytest.mark.parametrize("rows", [-1, 1], ids=["short", "long"])
def test_a_table_that_is_sound_but_too_short_or_long(table_of: str, rows: int, tmp_path: Path) -> None:
    home, holds = LAYOUTS["ogbn-arxiv"](tmp_path)
    full = {"edge": holds.edges.T, "node-feat": holds.x, "node-label": holds.y}[table_of]
    path = home / f"raw/{table_of}.csv.gz"
    layouts.table(path, full[:-1] if rows < 0 else np.concatenate([full, full[:1]]))
    with pytest.raises(GraphError, match=r"that the set states|where the set states") as caught:
        read("ogb:ogbn-arxiv", tmp_path)
    one_line(caught, path)


def test_half_a_folder_is_refused(tmp_path: Path) -> None:
    home, _ = LAYOUTS["ogbn-arxiv"](tmp_path)
    (home / "RELEASE_v1.txt").unlink()
    with pytest.raises(GraphError, match=r"not a complete version 1 of ogbn-arxiv: RELEASE_v1.txt is missing"):
        read("ogb:ogbn-arxiv", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("ogbn-cora", "no such set; it has: .*ogbn-arxiv")],
)
def test_sets_that_cannot_be_souped(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=message):
        read(f"ogb:{name}", tmp_path)


def test_offline_refuses_to_reach_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("reached out"))
    with pytest.raises(GraphError, match=r"ogbn-arxiv is not in .*--offline forbids"):
        read("ogb:ogbn-arxiv", tmp_path)
    assert not (tmp_path / "ogbn_arxiv").exists()


class Answer(io.BytesIO):
    """What a server sends; `length` is what it says that it will."""

    def __init__(self, content: bytes, length: int | None = None) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content) if length is None else length)}


def archive_of(root: Path) -> bytes:
    home, _ = LAYOUTS["ogbn-arxiv"](root)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in home.rglob("*"):
            archive.write(path, Path("arxiv") / path.relative_to(home))
    return content.getvalue()


def download(root: Path, answer: Callable[[], Answer], monkeypatch: pytest.MonkeyPatch) -> tuple[RawGraph, list[str]]:
    said: list[str] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: answer())
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (root / "scratch").mkdir(parents=True, exist_ok=True)
    job = GraphJob(source="ogb:ogbn-arxiv", root=str(root))
    return ogb.read("ogbn-arxiv", job, SourceContext(root / "scratch", False, said.append)), said


def test_a_download_says_its_size_first_and_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive_of(tmp_path / "there")
    found, said = download(tmp_path / "here", lambda: Answer(content), monkeypatch)
    assert np.array_equal(found.x[:], read("ogb:ogbn-arxiv", tmp_path / "there").x[:])
    assert len(said) == 1
    assert "downloading ogbn-arxiv (0.0 MiB from http" in said[0]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"ogbn_arxiv", "scratch"}


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive_of(tmp_path / "there")
    broken = [
        lambda: Answer(content[: len(content) // 2], len(content)),
        lambda: Answer(content[: len(content) // 2]),
        lambda: Answer(b"<html>moved</html>"),
    ]
    for answer in broken:
        with pytest.raises(GraphError, match="ogbn-arxiv cannot be downloaded from http"):
            download(tmp_path / "here", answer, monkeypatch)
        assert {path.name for path in (tmp_path / "here").iterdir()} == {"scratch"}
    download(tmp_path / "here", lambda: Answer(content), monkeypatch)


def test_accuracy_is_that_of_ogbs_evaluator() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 40, 1000), rng.integers(0, 40, 1000)
    predicted[:600] = labels[:600]
    assert ogb.evaluate("ogbn-arxiv", predicted, labels) == (predicted == labels).mean()
    assert sys.modules["outdated"] is None


def test_recorded_accuracies_are_the_evaluators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["ogbn-arxiv"](tmp_path)
    asked: list[tuple[str, int, float]] = []
    theirs = ogb.evaluate

    def watched(name: str, predicted: np.ndarray, labels: np.ndarray) -> float:
        asked.append((name, len(labels), theirs(name, predicted, labels)))
        return asked[-1][2]

    monkeypatch.setattr(ogb, "evaluate", watched)
    graph = ("graph.source=ogb:ogbn-arxiv", f"graph.root={tmp_path}", "graph.split=public")
    job = runs.train_run(tmp_path, *graph, "train.epochs=2", ingredients=1)
    found = ingredient_store.read(RunDir.of(job).ingredient(0))
    assert {name for name, _, _ in asked} == {"ogbn-arxiv"}
    assert asked[-2:] == [("ogbn-arxiv", 20, found.validation_accuracy), ("ogbn-arxiv", 20, found.test_accuracy)]


def test_of_ogbn_proteins_all_is_judged_by_the_evaluators_roc_auc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS["ogbn-proteins"](tmp_path)
    asked: list[tuple[str, tuple[int, ...], float]] = []
    theirs = ogb.evaluate

    def watched(name: str, predicted: np.ndarray, labels: np.ndarray) -> float:
        asked.append((name, predicted.shape, theirs(name, predicted, labels)))
        return asked[-1][2]

    monkeypatch.setattr(ogb, "evaluate", watched)
    graph = ("graph.source=ogb:ogbn-proteins", f"graph.root={tmp_path}", "graph.split=public")
    job = runs.train_run(tmp_path, *graph, "train.epochs=2", ingredients=1)
    found = ingredient_store.read(RunDir.of(job).ingredient(0))
    assert found.judged.metric == "roc_auc"
    assert asked[-2:] == [
        ("ogbn-proteins", (20, 112), found.validation_accuracy),
        ("ogbn-proteins", (20, 112), found.test_accuracy),
    ]
