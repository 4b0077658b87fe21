"""Features of edges on their way from a source to batches: what merging makes of them, and what a union has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.utils import add_remaining_self_loops, coalesce

from gnnsoup_hpc.config import GraphJob, Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.graph.identity import fields_used
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.types import Role
from tests.arbitrary import SEEDS
from tests.data.sources.test_named import CORE, MASKS, E, V, graph, kind, refusal
from tests.data.test_loader import source_ids, stored

__all__ = ["kind"]
USE = {"edge_attr": "use"}
ATTR = np.random.default_rng(0).normal(size=(E, 2))


def dense(found: Any) -> np.ndarray:
    """(V, V, D) of a graph, row = destination, NaN where there is no entry."""
    out = np.full((found.nodes, found.nodes, found.edge_attr.shape[1]), np.nan)
    row = np.repeat(np.arange(found.nodes), np.diff(found.indptr))
    out[row, found.indices] = found.edge_attr[:]
    return out


def merge_dense(edges: np.ndarray, attr: np.ndarray, nodes: int, undirected: bool, self_loops: str) -> np.ndarray:
    """The same, an entry at a time."""
    out = np.full((nodes, nodes, attr.shape[1]), np.nan)
    for node in range(nodes):
        for other in range(nodes):
            mine = (edges[0] == other) & (edges[1] == node)
            if mine.any() and (self_loops != "remove" or node != other):
                out[node, other] = attr[mine].mean(0)
    if undirected:
        out = np.where(np.isnan(out), out.transpose(1, 0, 2), out)
    for node in range(nodes) if self_loops == "add" else ():
        if np.isnan(out[node, node]).any():
            others = out[node][~np.isnan(out[node]).any(1)]
            out[node, node] = others.mean(0) if len(others) else 0.0
    return out


@pytest.mark.parametrize("self_loops", ["keep", "remove", "add"])
@pytest.mark.parametrize("undirected", [True, False], ids=["undirected", "directed"])
@given(seed=SEEDS, nodes=st.integers(2, 9), turned=st.booleans())
@settings(max_examples=8)
def test_edges_are_merged_with_their_features(
    self_loops: str, undirected: bool, seed: int, nodes: int, turned: bool
) -> None:
    rng = np.random.default_rng(seed)
    edges, attr = rng.integers(0, nodes, (2, 3 * nodes)), rng.normal(size=(3 * nodes, 2))
    options: dict[str, Any] = {"undirected": undirected, "self_loops": self_loops, "reverse": turned}
    arrays = MASKS | {"edge_index": edges, "edge_features": attr}
    found, plain = graph("npz", arrays, **USE, **options), graph("npz", arrays, edge_attr="ignore", **options)
    assert np.array_equal(found.indices, plain.indices)
    wanted = merge_dense(edges[::-1] if turned else edges, attr, V, undirected, self_loops)
    np.testing.assert_allclose(dense(found), wanted, rtol=1e-6, atol=1e-7)
    assert plain.edge_attr is None
    assert found.notes[0] == "edge_features is used (graph.edge_attr = 'use')"
    some = rng.integers(0, len(found.indices), 7)
    assert np.array_equal(found.edge_attr[some], found.edge_attr[:][some])


def test_merged_features_are_pygs(kind: str) -> None:
    arrays = MASKS | {"edge_attr": ATTR.astype(np.float32)}
    found = graph(kind, arrays, **USE, undirected=False, self_loops="add")
    ends, merged = coalesce(
        torch.as_tensor(CORE["edge_index"]), torch.as_tensor(ATTR), V, reduce="mean", sort_by_row=False
    )
    edges, wanted = add_remaining_self_loops(ends, merged, fill_value="mean", num_nodes=V)
    edges, wanted = coalesce(edges, wanted, V, sort_by_row=False)
    assert np.array_equal(found.indices, edges[0])
    np.testing.assert_allclose(found.edge_attr[:], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "values", [np.arange(E), np.ones(E), np.ones((E, 2)), np.arange(E) % 2 == 0, ATTR.astype(np.float16)]
)
def test_numbers_of_any_type_are_features(kind: str, values: np.ndarray) -> None:
    plain = graph(kind, MASKS | {"edge_attr": values}, **USE, duplicates="merge")
    wanted = merge_dense(CORE["edge_index"], values.reshape(E, -1).astype(float), V, True, "keep")
    np.testing.assert_allclose(dense(plain), wanted, rtol=1e-6)


def test_a_graph_without_edges_has_loops_alone() -> None:
    arrays = MASKS | {"edge_index": np.zeros((2, 0), dtype=np.int64), "edge_attr": np.zeros((0, 2))}
    assert graph("npz", arrays, **USE).edge_attr.shape == (0, 2)
    assert not graph("npz", arrays, **USE, self_loops="add").edge_attr[:].any()


BEYOND = np.where(np.arange(2 * E).reshape(E, 2) == 9, 1e39, 1.0)
WRONG = {
    "none": ({}, "graph.edge_attr = 'use', and it gives no features of edges: leave the field out"),
    "two": (
        {"edge_attr": ATTR, "edge_type": np.arange(E)},
        "edge_attr, edge_type each give edges features: leave all but one out",
    ),
    "too many": (
        {"edge_attr": np.zeros((E + 1, 2))},
        f"it: edge_attr holds float64 of shape ({E + 1}, 2); expected numbers of shape ({E}, D), D features an edge",
    ),
    "no feature": ({"edge_attr": np.zeros((E, 0))}, f"holds float64 of shape ({E}, 0); expected numbers of shape"),
    "deep": ({"edge_attr": np.zeros((E, 2, 2))}, f"holds float64 of shape ({E}, 2, 2); expected numbers of shape"),
    "words": ({"edge_attr": {"a": 1}}, "it: edge_attr is a dict; expected numbers of shape"),
    "not finite": (
        {"edge_attr": np.where(np.arange(E) == 4, np.nan, 2.0)},
        "it: edge_attr is [nan] at edge 4; expected finite numbers",
    ),
    "beyond float32": ({"edge_attr": BEYOND}, "it: edge_attr is [1.0, 1e+39] at edge 4; expected finite numbers"),
}


@pytest.mark.parametrize(("arrays", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_feature_is_refused(arrays: dict[str, Any], said: str) -> None:
    assert said in refusal("npz", MASKS | arrays, **USE)


def test_a_graph_with_features_of_edges_is_another_graph() -> None:
    facts = graph("npz", MASKS | {"edge_attr": ATTR}, **USE).facts
    job, other = (Job(name="any", graph=GraphJob(source="npz:it", edge_attr=way)) for way in ("use", "ignore"))
    used = fields_used(job, facts)
    assert used == fields_used(other, facts) | {"graph.edge_attr": "use", "graph.reverse": False}


@settings(max_examples=15)
@given(SEEDS, st.data())
def test_a_union_has_those_of_pygs_induced_subgraph(seed: int, data: st.DataObject) -> None:
    """With weights beside them, and without."""
    rng, weighted = np.random.default_rng(seed), data.draw(st.booleans(), label="weighted")
    arrays = {"edge_attr": rng.normal(size=(E, 3))} | ({"weight": rng.random(E)} if weighted else {})
    whole = graph("npz", MASKS | arrays, **USE, edge_weight="use" if weighted else "refuse", features="none")
    parts = data.draw(st.integers(1, 6), label="parts")
    chosen = data.draw(st.lists(st.integers(0, parts - 1), min_size=1, unique=True), label="chosen")
    with stored(whole, parts) as file:
        assert (file.edge_features, file.weighted) == (3, weighted)
        ids = source_ids(file, chosen)
        union = loader.load_union(file, chosen, Role.VALIDATION).graph.adjacency
        every = rng.permutation(file.edges)
        assert np.array_equal(file.edge_attr_of(every), file.edge_attr(0, file.edges)[every])
    row = np.repeat(np.arange(V), np.diff(whole.indptr))
    edges = torch.from_numpy(np.stack([whole.indices, row]))
    values = np.hstack([whole.edge_attr[:], *([whole.weight[:, None]] if weighted else [])])
    known = Data(edge_index=edges, edge_attr=torch.as_tensor(values), id=torch.arange(V), num_nodes=V)
    part = known.subgraph(torch.from_numpy(np.isin(np.arange(V), ids)))
    pairs = map(tuple, part.id[part.edge_index].t().tolist())
    wanted = dict(zip(pairs, part.edge_attr.tolist(), strict=True))
    assert union.edge_attr is not None
    found = union.edge_attr if union.weight is None else torch.hstack([union.edge_attr, union.weight[:, None]])
    ends = np.stack([ids[union.indices.numpy()], ids[union.row.numpy()]]).T.tolist()
    assert {tuple(each): value for each, value in zip(ends, found.tolist(), strict=True)} == wanted


def test_the_hash_of_a_graph_depends_on_them() -> None:
    found = []
    for attr in (ATTR, ATTR[::-1], None):
        arrays = MASKS if attr is None else MASKS | {"edge_attr": attr}
        with stored(graph("npz", arrays, **({} if attr is None else USE)), 3) as file:
            found.append(file.sha256)
    assert len(set(found)) == 3


def test_what_is_no_matrix_is_damage(tmp_path: Path) -> None:
    with stored(graph("npz", MASKS | {"edge_attr": ATTR}, **USE), 1) as file:
        path = tmp_path / "copy.h5"
        path.write_bytes(file.path.read_bytes())
    with h5py.File(path, "r+") as copy:
        del copy["edges/edge_attr"]
        copy["edges/edge_attr"] = np.zeros(4, dtype=np.float32)
    with pytest.raises(FileError, match="damaged"), graph_store.open_file(path):
        pass
