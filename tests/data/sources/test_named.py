"""Names, shapes and types that people give their arrays: npz: and pt: read the same, and pass over nothing silently."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data import sources
from gnnsoup_hpc.data.sources import npz, pt
from gnnsoup_hpc.data.sources.named import make_graph
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, finish
from gnnsoup_hpc.data.sources.split import assign_roles, describe_split
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph.graph import Graph, SourceFacts
from gnnsoup_hpc.graph.identity import check_asked
from gnnsoup_hpc.types import Role

V, E = 20, 35
RNG = np.random.default_rng(0)
MASKS = {
    f"{name}_mask": (np.arange(V) >= a) & (np.arange(V) < b)
    for name, a, b in (("train", 0, 10), ("val", 10, 15), ("test", 15, 20))
}
IDS = {name.replace("mask", "idx"): np.flatnonzero(mask) for name, mask in MASKS.items()}
CORE = {"x": RNG.random((V, 3)), "y": np.arange(V) % 3, "edge_index": RNG.integers(0, V, (2, E))}
CSR = sp.random(V, V, 0.1, format="csr", random_state=0)


def tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tensors(item) for item in value]
    return torch.as_tensor(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" else value


@pytest.fixture(params=["npz", "pt"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(kind: str, arrays: dict[str, Any], **options: Any) -> RawGraph:
    """What a source of a kind makes of the core's arrays and others; None leaves one out."""
    given, job = {k: v for k, v in (CORE | arrays).items() if v is not None}, GraphJob(**options)
    if kind == "npz":
        return make_graph(given, "it", (), "stored", job)
    return pt.from_data(tensors(given), "it", (), "stored", job)


def graph(kind: str, arrays: dict[str, Any], **options: Any) -> Graph:
    raw, job = read(kind, arrays, **options), GraphJob(**options)
    return finish(raw, assign_roles(raw, job), job, describe_split(raw, job))


def refusal(kind: str, arrays: dict[str, Any], **options: Any) -> str:
    with pytest.raises(GraphError) as error:
        graph(kind, arrays, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def named(source: dict[str, np.ndarray], *names: str) -> dict[str, Any]:
    return dict(zip(names, source.values(), strict=True))


def is_the_split(found: Graph) -> bool:
    return all(
        (found.role == role).tolist() == mask.tolist()
        for role, mask in zip(list(Role)[1:], MASKS.values(), strict=True)
    )


SAME_SPLIT = {
    "masks": MASKS,
    "ids": IDS,
    "index": named(IDS, "train_index", "val_index", "test_index"),
    "valid ids": named(IDS, "train_ids", "valid_ids", "test_ids"),
    "validation": named(MASKS, "train_mask", "validation_mask", "test_mask"),
    "the form first": named(IDS, "idx_train", "idx_val", "idx_test"),
    "PyG's NodePropertySplit": named(MASKS, "id_train_mask", "id_val_mask", "id_test_mask"),
    "camel case": named(MASKS, "trainMask", "valMask", "testMask"),
    "capitals": named(IDS, "TRAIN_IDX", "VAL_IDX", "TEST_IDX"),
    "glued": named(IDS, "trainidx", "validx", "testidx"),
    "nid": named(IDS, "train_nid", "val_nid", "test_nid"),
    "nodes": named(IDS, "train_nodes", "dev_nodes", "test_nodes"),
    "plain, ids": named(IDS, "train", "val", "test"),
    "plain, masks": named(MASKS, "train", "valid", "test"),
    "uint8 under idx": {name.replace("mask", "idx"): mask.astype(np.uint8) for name, mask in MASKS.items()},
    "float masks": {name: mask.astype(np.float32) for name, mask in MASKS.items()},
    "one column": {name: mask[:, None] for name, mask in MASKS.items()},
    "columns of ids": {name: ids[:, None] for name, ids in IDS.items()},
    "uint64": {name: ids.astype(np.uint64) for name, ids in IDS.items()},
    "said twice": MASKS | IDS,
    "beside codes of splits": MASKS | {"split": np.arange(V) % 3},
}


@pytest.mark.parametrize("arrays", SAME_SPLIT.values(), ids=SAME_SPLIT.keys())
def test_a_split_by_any_usual_name(kind: str, arrays: dict[str, Any]) -> None:
    found = graph(kind, arrays)
    assert is_the_split(found)
    assert found.split.startswith("stored ")
    assert found.facts.splits == {"stored": 1}


def short(source: dict[str, np.ndarray], shift: int = 0) -> dict[str, Any]:
    return {name.split("_")[0].replace("val", "valid"): (one + shift) % V for name, one in source.items()}


SAME_DICT = {
    "OGB's": {"split_idx": short(IDS)},
    "of masks": {"masks": {name.split("_")[0]: mask for name, mask in MASKS.items()}},
    "of lists": {"splits": {name: ids.tolist() for name, ids in short(IDS).items()}},
    "lists": {name: ids.tolist() for name, ids in IDS.items()},
    "a list of one": {"split_idx": [short(IDS)]},
}


@pytest.mark.parametrize("arrays", SAME_DICT.values(), ids=SAME_DICT.keys())
def test_a_split_in_dicts_and_lists(arrays: dict[str, Any]) -> None:
    assert is_the_split(graph("pt", arrays))


def test_columns(kind: str) -> None:
    several = {name: np.stack([np.roll(mask, shift) for shift in (7, 0, 3)], axis=1) for name, mask in MASKS.items()}
    found = graph(kind, several, split_index=1)
    assert is_the_split(found)
    assert found.split == "stored masks, column 1 of 3, counted from 0"
    assert graph(kind, several).split == "stored masks, column 0 of 3, counted from 0"
    assert found.facts.splits == {"stored": 3} == graph(kind, several, split="random").facts.splits
    assert "graph.split_index = 3: it has 3 splits, counted from 0" in refusal(kind, several, split_index=3)
    assert "it has 1 split, " in refusal(kind, MASKS, split="stored", split_index=1)
    assert "it has no split of its own" in refusal(kind, {}, split_index=1)
    assert is_the_split(
        graph(kind, several | {"test_mask": MASKS["test_mask"], "train_mask": MASKS["train_mask"]}, split_index=1)
    )
    fewer = refusal(kind, several | {"val_mask": several["val_mask"][:, :2]})
    assert "differ in their number of columns: train_mask 3, val_mask 2" in fewer


@pytest.mark.parametrize(
    "arrays",
    [
        {"split_idx": [short(IDS, 4), short(IDS), short(IDS, 9)]},
        {name: [(ids + 4) % V, ids] for name, ids in IDS.items()},
        {name: [np.roll(mask, 4), mask] for name, mask in MASKS.items()},
    ],
)
def test_columns_in_lists(arrays: dict[str, Any]) -> None:
    found = graph("pt", arrays, split_index=1)
    assert is_the_split(found)
    assert ", column 1 of " in found.split


REFUSED = [
    (
        named(MASKS, "id_train_mask", "id_val_mask", "id_test_mask") | {"ood_val_mask": MASKS["val_mask"]},
        "ood_val_mask",
    ),
    (MASKS | {"train_mask_0": MASKS["train_mask"], "train_mask_1": MASKS["train_mask"]}, "train_mask_0, train_mask_1"),
    ({"y_train": np.arange(3)}, "y_train"),
    (MASKS | {"eval_mask": MASKS["val_mask"]}, "eval_mask"),
    (
        MASKS | {"trainval_mask": MASKS["train_mask"], "non_test_mask": MASKS["val_mask"]},
        "trainval_mask, non_test_mask",
    ),
    ({"split": np.arange(V) % 3}, "split (int64 of shape (20,)) seems to give each node's role"),
    ({"fold": np.arange(V) % 10}, "fold (int64"),
    ({"train_mask": IDS["train_idx"]}, "train_mask holds int64 of shape (10,); expected booleans"),
    ({"train_mask": np.stack([MASKS["train_mask"]] * 2)}, "train_mask holds bool of shape (2, 20)"),
    ({"train_idx": np.ones(7, dtype=bool)}, "train_idx holds bool of shape (7,)"),
    ({"train_idx": np.array(3)}, "train_idx holds int64 of shape ()"),
    (MASKS | {"train_idx": np.array([1])}, "train_mask and train_idx differ"),
]


@pytest.mark.parametrize(("arrays", "message"), REFUSED)
def test_what_is_about_a_split_is_never_passed_over(kind: str, arrays: dict[str, Any], message: str) -> None:
    told = refusal(kind, arrays)
    assert message in told
    assert "graph.split = 'random'" in told
    found = graph(kind, arrays, split="random")
    assert found.facts.splits is None
    assert all(name in found.split and name not in "".join(found.notes) for name in arrays)


@pytest.mark.parametrize("extra", [{"ood": np.array([1])}, {"train": "all"}])
def test_dicts_that_are_no_split(extra: dict[str, Any]) -> None:
    assert "split_idx[" in refusal("pt", {"split_idx": short(IDS) | extra})
    assert "not all the same keys" in refusal("pt", {"split_idx": [short(IDS), {"train": IDS["train_idx"]}]})
    assert "splits (a dict)" in refusal("pt", {"splits": {"a": IDS["train_idx"]}})


def test_ids_are_told_by_node(kind: str) -> None:
    assert "node 2 is listed twice among the split's train ids" in refusal(
        kind, IDS | {"train_idx": np.array([2, 1, 2])}
    )
    assert "leave the range [0, 20)" in refusal(kind, IDS | {"test_idx": np.array([20])})
    huge = np.array([2**64 - 1], dtype=np.uint64)
    assert "test_idx has the id 18446744073709551615" in refusal(kind, IDS | {"test_idx": huge})
    empty = refusal(kind, IDS | {"test_idx": np.array([])})
    assert "the split (stored ids) has no test node" in empty


def test_which_split_is_taken_is_said(kind: str) -> None:
    assert graph(kind, {}).split == "random 60/20/20, seed 0: the source has none"
    shares = {"split": "random", "train_share": 0.5, "split_seed": 7}
    own = "train_mask, val_mask, test_mask"
    assert graph(kind, MASKS, **shares).split == (
        f"random 50/20/30, seed 7, as the job asks; the source's own {own} are not used"
    )
    for options, words in (({}, "public"), ({"split": "random"}, "the source's own public split is not used")):
        job = GraphJob(source="bundled:pubmed", **options)
        assert sources.load(job, SourceContext(Path("none"))).split.endswith(words)


WEIGHTS = {
    "edge_weight": RNG.random(E),
    "edge_weights": RNG.random((E, 1)),
    "weight": RNG.random(E),
    "edgeWeight": RNG.random(E),
}
ATTRIBUTES = {
    "edge_attr": RNG.random((E, 2)),
    "edge_features": RNG.random((E, 2)),
    "edge_type": np.arange(E) % 3,
    "edge_time": np.arange(E),
}


@pytest.mark.parametrize(("name", "value"), [*WEIGHTS.items(), *ATTRIBUTES.items()])
def test_values_of_edges_are_refused_or_ignored_by_name(kind: str, name: str, value: np.ndarray) -> None:
    about = "edge_weight" if name in WEIGHTS else "edge_attr"
    told = refusal(kind, MASKS | {name: value})
    assert told.startswith(f"it: {name} gives edges ")
    assert f"graph.{about} = 'ignore' goes on without" in told
    found = graph(kind, MASKS | {name: value}, **{about: "ignore"})
    assert found.facts.edge_values == {about: (name,)}
    assert found.notes == (f"{name} is ignored (graph.{about} = 'ignore')",)
    ones = graph(kind, MASKS | {name: np.ones_like(value)})
    assert ones.facts.edge_values == {}
    assert ones.notes == (f"{name} is 1 for every edge, which says nothing",)


def test_entries_of_matrices_are_weights(kind: str) -> None:
    rows: dict[str, Any] = MASKS | {"edge_index": None, "indptr": CSR.indptr, "indices": CSR.indices}
    plain = graph(kind, rows, undirected=False)
    for name in ("data", "values"):
        assert f"{name} gives edges weights" in refusal(kind, rows | {name: CSR.data})
        ignored = graph(kind, rows | {name: CSR.data}, undirected=False, edge_weight="ignore")
        assert np.array_equal(ignored.indices, plain.indices)
        assert graph(kind, rows | {name: np.ones(CSR.nnz)}).facts.edge_values == {}


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_a_transposed_adjacency_gives_edges(layout: torch.layout) -> None:
    arrays: dict[str, Any] = MASKS | {"edge_index": None}
    dense = torch.as_tensor(CSR.toarray())
    adjacency = (dense != 0).float()
    sparse = adjacency.to_sparse_csr() if layout is torch.sparse_csr else adjacency.to_sparse()
    found = graph("pt", arrays | {"adj_t": sparse}, undirected=False)
    assert np.array_equal(found.indptr, CSR.indptr)
    assert np.array_equal(found.indices, CSR.sorted_indices().indices)
    for others in (arrays, MASKS | {"edge_index": np.stack([CSR.tocoo().col, CSR.tocoo().row])}):
        assert "adj_t gives edges weights" in refusal("pt", others | {"adj_t": dense.to_sparse()})
    ends = np.stack([CSR.tocoo().col, CSR.tocoo().row])
    assert graph("pt", MASKS | {"edge_index": ends, "adj_t": sparse}).facts.edge_values == {}
    assert "edge_index and adj_t hold different edges" in refusal(
        "pt", MASKS | {"edge_index": ends[:, 1:], "adj_t": sparse}
    )
    assert "adj_t holds float32 of shape (20, 20); expected a sparse matrix" in refusal(
        "pt", arrays | {"adj_t": adjacency}
    )


def test_facts_alone_tell_what_a_job_refuses() -> None:
    facts = SourceFacts({}, 3, {"edge_attr": ("edge_type",)})
    check_asked(facts, GraphJob(edge_attr="ignore"), "it")
    with pytest.raises(GraphError, match=r"^it: 3 edges are duplicates"):
        check_asked(facts, GraphJob(duplicates="refuse"), "it")
    with pytest.raises(GraphError, match=r"^it: edge_type gives edges features or types"):
        check_asked(facts, GraphJob(), "it")


def test_facts_do_not_depend_on_the_job(kind: str) -> None:
    arrays = MASKS | {"edge_index": np.array([[0, 0, 1, 1], [1, 1, 0, 1]])}
    jobs: list[dict[str, Any]] = [
        {},
        {"undirected": False},
        {"reverse": True},
        {"self_loops": "remove"},
        {"split": "random"},
    ]
    facts = SourceFacts({"stored": 1}, 1, {}, True, 1, 20, filled=1.0)
    assert [graph(kind, arrays, **job).facts for job in jobs] == [facts] * len(jobs)
    assert "1 edges are duplicates" in refusal(kind, arrays, duplicates="refuse")


def test_what_nothing_reads_is_said_once(kind: str) -> None:
    more = {
        "pos": RNG.random((V, 2)),
        "batch": np.zeros(V),
        "num_edges": np.array(E),
        "interval": np.arange(V),
        "latest": np.arange(V),
    }
    assert graph(kind, MASKS | more | {"num_nodes": np.array(V)}).notes == (
        "not used: batch, interval, latest, num_edges, pos",
    )


@pytest.mark.parametrize(("name", "value"), [("num_nodes", V + 1), ("num_features", 4)])
def test_numbers_that_contradict_the_arrays_are_refused(kind: str, name: str, value: int) -> None:
    assert f"{name} is {value}, but the arrays have" in refusal(kind, MASKS | {name: np.array(value)})


@pytest.mark.parametrize(
    "y",
    [
        CORE["y"][:, None],
        CORE["y"].astype(np.float32),
        CORE["y"].astype(np.uint64),
        CORE["y"].astype(np.int8)[:, None],
    ],
)
def test_labels_of_any_shape_and_type(kind: str, y: np.ndarray) -> None:
    found = graph(kind, MASKS | {"y": y})
    assert found.y.tolist() == CORE["y"].tolist()
    assert found.y.dtype == np.int64
    assert found.notes == ()


def test_nan_is_no_label(kind: str) -> None:
    y = CORE["y"].astype(float)
    y[[3, 19]] = np.nan, -1.0
    found = graph(kind, {"y": y})
    assert np.flatnonzero(found.y < 0).tolist() == [3, 19]
    assert (found.role[[3, 19]] == Role.NONE).all()
    assert "node 3 is in the split but has no label; take" in refusal(kind, MASKS | {"y": y})


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.where(CORE["y"] == 2, np.inf, 0.0), "y holds inf at node 2"),
        (np.full(V, 1e300), "y holds 1e+300 at node 0"),
        (np.full(V, 2**64 - 1, dtype=np.uint64), "y has the value 18446744073709551615"),
        (np.eye(3)[CORE["y"]], "each row has exactly one 1: of one class a node y.argmax(1) says the same"),
        (np.stack([CORE["y"], CORE["y"]], 1), "of several columns task.kind = 'multilabel' makes labels"),
        (np.full((V, 4), np.nan), "no node has a label"),
        (CORE["y"].astype(complex), "y holds complex128"),
        (
            np.where(np.arange(V) == 4, 255, CORE["y"]).astype(np.uint8),
            "more classes than 20 nodes; number them from 0 on, and write -1",
        ),
    ],
)
def test_labels_that_cannot_be_souped(kind: str, y: np.ndarray, message: str) -> None:
    told = refusal(kind, MASKS | {"y": y})
    assert message in told
    assert ("argmax" in told) == ("argmax" in message)


LABELS = np.where(RNG.random((V, 4)) < 0.2, np.nan, RNG.random((V, 4)) < 0.5)
LABELS[:, 0] = np.arange(V) % 2


def targets_of(kind: str, y: np.ndarray, task: str = "auto", **more: Any) -> Graph:
    given, job = CORE | MASKS | {"y": y} | more, GraphJob()
    if kind == "npz":
        raw = make_graph(given, "it", (), "stored", job, task)
    else:
        raw = pt.from_data(tensors(given), "it", (), "stored", job, task)
    return finish(raw, assign_roles(raw, job), job, describe_split(raw, job))


@pytest.mark.parametrize("y", [LABELS, LABELS.astype(np.float32), np.nan_to_num(LABELS, nan=-1.0).astype(np.int64)])
def test_columns_of_yes_and_no_are_labels(kind: str, y: np.ndarray) -> None:
    found = targets_of(kind, y)
    assert (found.targets, found.facts.targets, found.classes) == ("multilabel", "multilabel", 4)
    assert found.y.dtype == np.float32
    np.testing.assert_array_equal(found.y, LABELS.astype(np.float32))
    assert found.notes == (f"targets that are missing: {int(np.isnan(LABELS).sum())} of those of nodes in the split",)


@pytest.mark.parametrize(
    ("y", "wanted"),
    [
        (CORE["y"] + 0.25, CORE["y"][:, None] + 0.25),
        (
            np.where(np.isnan(LABELS), np.nan, 5.8e6 + LABELS / 3),
            np.where(np.isnan(LABELS), np.nan, 5.8e6 + LABELS / 3),
        ),
    ],
)
def test_numbers_that_are_no_classes_are_a_regression(kind: str, y: np.ndarray, wanted: np.ndarray) -> None:
    found = targets_of(kind, y)
    assert (found.targets, found.classes) == ("regression", wanted.shape[1])
    assert found.y.dtype == np.float64
    np.testing.assert_array_equal(found.y, wanted)


def test_a_stray_value_that_makes_labels_a_regression_is_named(kind: str) -> None:
    stray, classes = LABELS.copy(), CORE["y"].astype(np.float64)
    stray[17, 2] = 2.0
    classes[5] = 0.5
    note, _ = targets_of(kind, stray).notes
    assert note == (
        "y has the value 2 at node 17, target 2, and else 0, 1 alone: a regression because of that; if these are"
        " labels, correct it and say task.kind = 'multilabel'"
    )
    (note,) = targets_of(kind, classes).notes
    assert "y has the value 0.5 at node 5, and else 0, 1, 2 alone" in note
    assert "task.kind = 'multiclass'" in note
    assert not targets_of(kind, classes + 0.25).notes  # no value is a class
    assert not targets_of(kind, np.where(np.arange(V) % 20 == 0, 0.5, classes)).notes  # too many to be strays
    assert not targets_of(kind, CORE["y"], "regression").notes  # whole numbers, as the job says


def test_the_job_says_what_labels_are(kind: str) -> None:
    numbers = targets_of(kind, CORE["y"], "regression")
    assert (numbers.targets, numbers.facts.targets) == ("regression", "classes")
    assert numbers.y[:, 0].tolist() == CORE["y"].tolist()
    assert targets_of(kind, np.eye(3)[CORE["y"]], "multilabel").y.tolist() == np.eye(3)[CORE["y"]].tolist()
    assert targets_of(kind, CORE["y"] % 2, "multilabel").classes == 1
    assert targets_of(kind, CORE["y"], "multiclass").targets == "classes"
    for y, task, message in [
        (CORE["y"] + 0.25, "multiclass", "y holds 0.25 at node 0; expected classes as whole numbers"),
        (LABELS, "binary", "one class a node, (V,)"),
        (LABELS + 0.5, "multilabel", "y holds 0.5 at node 0, target 0; expected 0 and 1"),
        (np.where(LABELS == 1, np.inf, 0.5), "auto", "expected numbers of at most 1e+100, and NaN"),
        (
            np.where(LABELS == 1, -1e300, 0.5),
            "auto",
            "expected numbers of at most 1e+100, and NaN where one is missing",
        ),
    ]:
        with pytest.raises(GraphError) as error:
            targets_of(kind, y, task)
        assert message in str(error.value)
    with pytest.raises(GraphError, match="num_classes is 7, but y has 4 columns"):
        targets_of(kind, LABELS, num_classes=np.array(7))


def test_a_node_with_any_label_may_be_in_the_split(kind: str) -> None:
    y = LABELS.copy()
    y[3] = np.nan
    with pytest.raises(GraphError, match="node 3 is in the split but has no label"):
        targets_of(kind, y)
    y[3, 1] = 1.0
    y[:10, 2] = 1.0
    assert "nothing is learned: 2" in targets_of(kind, y).notes[1]


def test_names_of_classes(tmp_path: Path) -> None:
    words = np.array(["a", "b"] * 10)
    assert "y holds <U1 of shape (20,); expected classes as integers" in refusal("npz", {"y": words})
    assert "y is a list" in refusal("pt", {"y": words.tolist()})
    assert graph("pt", {"y": CORE["y"].tolist()}).y.tolist() == CORE["y"].tolist()
    for name in ("y", "names"):
        np.savez(tmp_path / "it.npz", **(CORE | {name: np.array(["a", None], dtype=object)}))
        with pytest.raises(GraphError, match=rf"it.npz: {name} holds Python objects, .* leave it out, or save"):
            npz.read(str(tmp_path / "it.npz"), GraphJob(), SourceContext(tmp_path))


@pytest.mark.parametrize(
    ("y", "notes"),
    [
        (
            np.where(np.arange(V) == 4, 18, CORE["y"]),
            ["label 18 (nodes: 1) follows 15 classes without a node: write -1"],
        ),
        (np.where(CORE["y"] == 1, 3, CORE["y"]), ["classes without a node: 1; classes are numbered"]),
        (np.where(np.arange(V) > 10, 3, CORE["y"]), ["classes without a training node, which no model learns: 3"]),
    ],
)
def test_odd_classes_are_said(kind: str, y: np.ndarray, notes: list[str]) -> None:
    found = graph(kind, MASKS | {"y": y}).notes
    assert len(found) == len(notes)
    assert all(note in told for note, told in zip(notes, found, strict=True))


def test_given_classes_without_a_node_are_said(kind: str) -> None:
    (note,) = graph(kind, MASKS | {"num_classes": np.array([10**12])}).notes
    assert note.startswith("classes without a node: 3, 4, 5, 6, 7, 8, 9, 10 … (999999999997 in all); ")


@pytest.mark.parametrize("number", ["f2", "f4", "f8", "i1", "i8", "u1", "u8", "?"])
def test_features_of_any_number(kind: str, number: str) -> None:
    x = (np.arange(V * 3).reshape(V, 3) % 5).astype(number)
    matrix = sp.csr_matrix(x.astype(float))
    parts = {"x": None, "x_indptr": matrix.indptr, "x_indices": matrix.indices, "x_data": matrix.data.astype(number)}
    dense, sparse = read(kind, {"x": x}).x, read(kind, parts).x
    assert dense[:].dtype == np.dtype(number)
    assert dense[:].tolist() == sparse[:].tolist() == sparse[np.arange(V)].tolist() == x.tolist()


@pytest.mark.parametrize("number", [">f8", ">i4", "g"])
def test_features_of_other_machines(number: str) -> None:
    x = np.arange(V * 3).reshape(V, 3).astype(number)
    assert read("npz", {"x": x}).x[:].tolist() == x.tolist()
    assert (
        read("npz", {"edge_index": CORE["edge_index"].astype(">i4")}).source.tolist() == CORE["edge_index"][0].tolist()
    )


def test_ids_of_edges_of_any_type(kind: str) -> None:
    wanted = graph(kind, {})
    for number in ("u1", "i4", "u8"):
        assert np.array_equal(graph(kind, {"edge_index": CORE["edge_index"].astype(number)}).indices, wanted.indices)
    huge = np.array([[2**64 - 1], [0]], dtype=np.uint64)
    assert "edge_index has the value 18446744073709551615" in refusal(kind, {"edge_index": huge})
    assert "destinations: transpose it" in refusal(kind, {"edge_index": CORE["edge_index"].T})


@pytest.mark.parametrize("told", [b"csr", "csr"])
def test_a_matrix_of_scipy_says_how_it_lies(told: str | bytes) -> None:
    rows = MASKS | {"edge_index": None, "indptr": CSR.indptr, "indices": CSR.indices, "shape": np.array([V, V])}
    assert not graph("npz", rows | {"format": np.array(told)}).notes
    assert "format is 'csc'; expected csr" in refusal("npz", rows | {"format": np.array(b"csc")})
    assert "shape is [20, 3]; expected [20, 20]" in refusal("npz", rows | {"shape": np.array([V, 3])})


def test_features_and_labels_of_different_lengths_are_named_before_their_masks(kind: str) -> None:
    assert "x has 20 rows, and y has 19 labels" in refusal(kind, MASKS | {"y": CORE["y"][:-1]})


def test_features_that_are_none_are_said(kind: str) -> None:
    assert "expected at least one feature a node" in refusal(kind, MASKS | {"x": np.zeros((V, 0))})


def test_ids_that_are_whole_floating_numbers_are_ids(kind: str) -> None:
    ids = {name: found * 1.0 for name, found in IDS.items()}
    assert (graph(kind, ids).role == graph(kind, IDS).role).all()


def test_labels_with_gaps_are_no_marks(kind: str) -> None:
    found = graph(kind, MASKS | {"y": np.arange(V) % 3 * 3})
    assert any("classes without a node: 1, 2, 4, 5;" in note for note in found.notes)
    assert not any("write -1 in its place" in note for note in found.notes)
    assert any(
        "every label is 0: there is nothing to learn" in note
        for note in graph(kind, MASKS | {"y": np.zeros(V, int)}).notes
    )


def test_labels_of_half_precision_overflow_nothing(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (graph(kind, MASKS | {"y": (np.arange(V) % 3).astype(np.float16)}).y == np.arange(V) % 3).all()
