"""Sources of graphs: the bundled one, npz archives in all their layouts, checks, splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data import sources
from gnnsoup_hpc.data.sources import named, npz
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, describe_file, finish
from gnnsoup_hpc.data.sources.split import assign_roles
from gnnsoup_hpc.errors import GraphError, JobError
from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.types import Role
from tests import tiny
from tests.arbitrary import SEEDS, Structure, structures

DESK = SourceContext(Path("no scratch is needed"))
SIX: dict[str, Any] = {
    "x": np.arange(12, dtype=np.float32).reshape(6, 2),
    "y": np.array([0, 1, 2, 0, 1, -1]),
    "edge_index": np.array([[0, 1, 1, 4], [1, 2, 2, 4]]),
    "train_idx": np.array([0, 1]),
    "valid_idx": np.array([2, 3]),
    "test_idx": np.array([4]),
}


def six(**changes: Any) -> RawGraph:
    """Six nodes, 0 -> 1 -> 2 with the second edge twice, 4 -> 4; None leaves an array out."""
    return named.make_graph(SIX | changes, "six.npz", (), "stored", GraphJob())


def test_a_file_of_torch_save_by_another_name_is_told(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(3, 2)}, tmp_path / "g.npz")
    with pytest.raises(
        GraphError, match=r"g\.npz is a file of torch\.save, and no \.npz: graph\.source = 'pt:.*g\.npz'"
    ):
        sources.load(GraphJob(source=f"npz:{tmp_path}/g.npz"), DESK)


def stored(raw: RawGraph, undirected: bool = True) -> Graph:
    job = GraphJob(split="stored", undirected=undirected)
    return finish(raw, assign_roles(raw, job), job)


def entries(graph: Graph) -> list[tuple[int, int]]:
    """(destination, source) of every entry, in the order of rows."""
    rows = np.repeat(np.arange(graph.nodes), np.diff(graph.indptr))
    return list(zip(rows.tolist(), graph.indices.tolist(), strict=True))


def count(graph: Graph) -> dict[Role, int]:
    return {role: int((graph.role == role).sum()) for role in Role}


@pytest.fixture(scope="module")
def pubmed() -> Graph:
    return sources.load(GraphJob(source="bundled:pubmed", split="public"), DESK)


def test_pubmed_is_what_its_paper_says(pubmed: Graph) -> None:
    assert pubmed.x.shape == (19717, 500)
    assert pubmed.nodes == 19717
    assert len(pubmed.indices) == 88648
    assert pubmed.classes == 3
    assert np.bincount(pubmed.y).tolist() == [4103, 7739, 7875]
    assert pubmed.x[:5].dtype == np.float32
    assert len(pubmed.source_sha256) == 64


def test_pubmed_is_symmetric_with_sorted_rows(pubmed: Graph) -> None:
    pairs = entries(pubmed)
    assert pairs == sorted(set(pairs))
    assert {(source, destination) for destination, source in pairs} == set(pairs)


def test_pubmed_public_split_is_planetoids(pubmed: Graph) -> None:
    assert count(pubmed) == {Role.NONE: 19717 - 1560, Role.TRAIN: 60, Role.VALIDATION: 500, Role.TEST: 1000}
    assert np.bincount(pubmed.y[pubmed.role == Role.TRAIN]).tolist() == [20, 20, 20]
    assert np.flatnonzero(pubmed.role == Role.TEST)[[0, -1]].tolist() == [18717, 19716]


def test_unknown_sources_are_refused_with_the_known_ones() -> None:
    with pytest.raises(JobError, match=r"'pubmed': expected one of bundled:…, .*npz:…"):
        sources.load(GraphJob(source="pubmed"), DESK)
    with pytest.raises(JobError, match="expected one of"):
        sources.load(GraphJob(source="npz:"), DESK)
    with pytest.raises(GraphError, match="no such graph is bundled; there is: pubmed"):
        sources.load(GraphJob(source="bundled:cora"), DESK)
    with pytest.raises(GraphError, match="has no such split; it has: random, public"):
        sources.load(GraphJob(source="bundled:pubmed", split="stored"), DESK)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("g3.pt", "; did you mean 'pt:g3.pt'?"),
        ("data/x.NPZ", "; did you mean 'npz:data/x.NPZ'?"),
        ("ogbn-arxiv", "; did you mean 'ogb:ogbn-arxiv'?"),
        (str(Path(__file__).parent), "; that is a folder: name a file in it"),
        ("", "synthetic:…"),
        ("zip:x", "synthetic:…"),
    ],
)
def test_a_source_without_its_kind_is_told_which_may_be_meant(source: str, hint: str) -> None:
    with pytest.raises(JobError) as error:
        sources.load(GraphJob(source=source), DESK)
    assert str(error.value).partition("synthetic:…")[2].startswith(hint.removeprefix("synthetic:…"))


def test_duplicate_edges_are_merged_and_loops_stay() -> None:
    assert entries(stored(six(), undirected=False)) == [(1, 0), (2, 1), (4, 4)]
    assert entries(stored(six())) == [(0, 1), (1, 0), (1, 2), (2, 1), (4, 4)]


@given(structures().filter(lambda shape: shape.nodes >= 3), st.booleans())
def test_edges_of_any_graph(shape: Structure, undirected: bool) -> None:
    y, role = np.zeros(shape.nodes, dtype=np.int64), np.full(shape.nodes, Role.TRAIN, dtype=np.uint8)
    role[:2] = Role.VALIDATION, Role.TEST
    raw = RawGraph("any", "0" * 64, np.ones((shape.nodes, 1), dtype=np.float32), y, *shape.edge_index.numpy())
    wanted = set(shape.entries)
    if undirected:
        wanted |= {(source, destination) for destination, source in wanted}
    assert entries(finish(raw, role, GraphJob(undirected=undirected))) == sorted(wanted)


def test_csr_layout_is_the_edge_list() -> None:
    rows = six(edge_index=None, indptr=np.array([0, 0, 1, 2, 2, 3, 3]), indices=np.array([0, 1, 4]))
    assert entries(stored(rows, undirected=False)) == entries(stored(six(), undirected=False))


def test_sparse_features_are_the_dense_ones() -> None:
    sparse = six(
        x=None,
        x_indptr=np.array([0, 1, 1, 3, 3, 3, 4]),
        x_indices=np.array([2, 0, 1, 2]),
        x_data=np.array([5.0, 1.0, 2.0, 3.0]),
    )
    assert sparse.x[:].tolist() == [[0, 0, 5], [0, 0, 0], [1, 2, 0], [0, 0, 0], [0, 0, 0], [0, 0, 3]]
    assert sparse.x[:].dtype == np.float64


def test_classes_are_counted_or_given() -> None:
    assert stored(six()).classes == 3
    assert stored(six(num_classes=np.array(7))).classes == 7


def test_archive_and_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "odd name, 'quoted'.npz"
    np.savez_compressed(path, **SIX)
    graph = sources.load(GraphJob(source=f"npz:{path}", split="stored"), DESK)
    assert entries(graph) == entries(stored(six()))
    assert graph.source_sha256 == describe_file(path).sha256
    assert graph.y.tolist() == SIX["y"].tolist()


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"y": None}, "'y' is missing"),
    ({"x": None}, "'x' is missing"),
    ({"edge_index": None}, "'edge_index' is missing"),
    ({"y": np.array([0.0, 1, 2, 0, np.inf, 1])}, "y holds inf at node 4; expected classes as whole numbers"),
    ({"y": np.array([[0, 1, 2, 0, 1, 1]])}, r"y holds int64 of shape \(1, 6\)"),
    ({"y": np.array(3)}, r"y holds int64 of shape \(\)"),
    ({"y": np.array([0, 1, 2, 0, 1, -2])}, "label -2 of node 5 is out of range"),
    ({"y": np.full(6, -1)}, "no node has a label"),
    ({"num_classes": np.array(2)}, r"label 2 of node 2 is out of range \[0, 2\)"),
    ({"num_classes": np.array([3, 3])}, r"num_classes holds int64 of shape \(2,\)"),
    ({"x": np.ones((5, 2))}, r"x has 5 rows, and y has 6 labels"),
    ({"x": np.ones(6)}, r"x holds float64 of shape \(6,\)"),
    ({"x": np.ones((6, 0))}, r"x has shape \(6, 0\)"),
    ({"x": np.full((6, 2), "a")}, "x holds <U1 .*; expected numbers"),
    ({"x": np.ones((6, 2), dtype=complex)}, "x holds complex128 .*; expected numbers"),
    ({"x": np.full((6, 2), np.nan)}, "not finite, first at node 0"),
    ({"edge_index": np.zeros((3, 2), dtype=int)}, r"edge_index holds int64 of shape \(3, 2\)"),
    ({"edge_index": np.array([[0], [6]])}, "an edge's destination is 6, out of range for 6 nodes"),
    ({"edge_index": np.array([[-1], [0]])}, "an edge's source is -1"),
    ({"edge_index": None, "indptr": np.array([0, 1]), "indices": np.array([0])}, "indptr must rise"),
    ({"edge_index": None, "indptr": np.array([0, 2, 1, 1, 1, 1, 1]), "indices": np.array([0])}, "indptr must rise"),
    ({"edge_index": None, "indptr": np.zeros((7, 1), dtype=int), "indices": np.array([], dtype=int)}, "indptr holds"),
    ({"edge_index": None, "indptr": np.array([0, 1, 1, 1, 1, 1, 1]), "indices": np.array([[0]])}, "indices holds"),
    ({"train_idx": np.array([0, 6])}, r"the split's train ids leave the range \[0, 6\)"),
    ({"train_idx": np.array([0, 2])}, "node 2 has two roles in the split, train and validation, and so have 0 more"),
    ({"train_idx": np.array([0, 5])}, "node 5 is in the split but has no label"),
    ({"valid_idx": None}, "the split has no validation node"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_what_is_wrong_with_an_archive_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=f"six.npz.*{message}"):
        stored(six(**changes))


@pytest.mark.parametrize(
    "features",
    [
        {"x_indptr": [0, 9, 1, 1, 1, 1, 2], "x_indices": [0, 1], "x_data": [1.0, 1.0]},
        {"x_indptr": [0, 2, 2, 2, 2, 2, 2], "x_indices": [1, -9], "x_data": [1.0, 1.0]},
    ],
)
def test_sparse_features_that_are_no_matrix_touch_no_memory(tmp_path: Path, features: dict[str, list[Any]]) -> None:
    """In a process of its own, for what reads past an array's end may end it."""
    arrays = {key: value for key, value in SIX.items() if key != "x"}
    np.savez(tmp_path / "six.npz", **arrays, **{key: np.array(value) for key, value in features.items()})
    (tmp_path / "six.toml").write_text('name = "six"\n[graph]\nsource = "npz:six.npz"\nsplit = "stored"\n')
    ended = tiny.command("prepare", "six.toml", "--set", "partition.parts=4", cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert "six.npz: x_indptr, x_indices, x_data are no CSR matrix of 6 rows" in ended.stderr


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    with path.open("wb") as file:
        np.save(file, SIX["x"])
    with pytest.raises(GraphError, match=r"one.npz: not a readable .npz archive"):
        npz.read(str(path), GraphJob(), DESK)
    with pytest.raises(GraphError, match="there is no file"):
        npz.read(str(tmp_path / "none.npz"), GraphJob(), DESK)


def test_a_damaged_archive_is_refused_or_reads_the_same(tmp_path: Path) -> None:
    """An archive has bytes that no reader looks at, such as dates; any other that is flipped must be found."""
    path = tmp_path / "six.npz"
    np.savez_compressed(path, **SIX)
    whole, good = path.read_bytes(), stored(npz.read(str(path), GraphJob(), DESK))
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = stored(npz.read(str(path), GraphJob(), DESK))
        except GraphError:
            refused += 1
            continue
        assert np.array_equal(found.x[:], good.x[:]), place
        for name in ("y", "indptr", "indices", "role"):
            assert np.array_equal(getattr(found, name), getattr(good, name)), (place, name)
    assert refused > 100


LABELS = st.lists(st.integers(-1, 2), min_size=10, max_size=60).filter(lambda y: sum(label >= 0 for label in y) >= 8)


@given(LABELS, SEEDS, st.floats(0.2, 0.5), st.floats(0.2, 0.4))
def test_random_split(labels: list[int], seed: int, train: float, validation: float) -> None:
    y = np.array(labels)
    raw = RawGraph("any", "0" * 64, np.ones((len(y), 1), dtype=np.float32), y, *np.zeros((2, 0), dtype=np.int64))
    job = GraphJob(split_seed=seed, train_share=train, validation_share=validation)
    role, labelled = assign_roles(raw, job), int((y >= 0).sum())
    assert set(role[y < 0].tolist()) <= {int(Role.NONE)}
    assert set(role[y >= 0].tolist()) <= {int(Role.TRAIN), int(Role.VALIDATION), int(Role.TEST)}
    assert (role == Role.TRAIN).sum() == round(train * labelled)
    assert (role == Role.VALIDATION).sum() == round(validation * labelled)
    assert np.array_equal(role, assign_roles(raw, job))


@pytest.mark.parametrize("split", ["public", "random"])
def test_a_share_of_the_training_nodes(split: str, pubmed: Graph) -> None:
    """A seeded draw; nodes that validate and test stay, and one training node at least."""
    whole = sources.load(GraphJob(split=split), DESK)
    few, other = (sources.load(GraphJob(split=split, split_seed=seed, label_share=0.25), DESK) for seed in (0, 1))
    least = sources.load(GraphJob(split=split, label_share=1e-6), DESK)
    kept = few.role == Role.TRAIN
    assert kept.sum() == round(0.25 * (whole.role == Role.TRAIN).sum())
    assert (whole.role[kept] == Role.TRAIN).all()
    assert np.array_equal(few.role[~kept], np.where(whole.role == Role.TRAIN, Role.NONE, whole.role)[~kept])
    assert not np.array_equal(few.role, other.role)
    assert (least.role == Role.TRAIN).sum() == 1
    assert ", 25 % of its training nodes" in few.split


def test_split_seeds_give_different_splits(pubmed: Graph) -> None:
    one, other = (sources.load(GraphJob(split="random", split_seed=seed), DESK) for seed in (0, 1))
    assert not np.array_equal(one.role, other.role)
    assert count(one) == count(other) == {Role.NONE: 0, Role.TRAIN: 11830, Role.VALIDATION: 3943, Role.TEST: 3944}
    assert np.array_equal(one.x[:], pubmed.x[:])
