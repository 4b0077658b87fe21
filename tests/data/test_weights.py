"""Weights of edges on their way from a source to batches: what merging makes of them, and what a union has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.utils import coalesce

from gnnsoup_hpc.config import GraphJob, Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import FileError, GraphError
from gnnsoup_hpc.graph.identity import fields_used
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.types import Role
from tests.arbitrary import SEEDS
from tests.data.sources.test_named import CORE, CSR, MASKS, E, V, graph, kind, refusal
from tests.data.test_loader import source_ids, stored

__all__ = ["kind"]
USE = {"edge_weight": "use"}


def dense(found: Any) -> np.ndarray:
    """The matrix of a graph, row = destination, NaN where there is no entry."""
    out = np.full((found.nodes, found.nodes), np.nan)
    row = np.repeat(np.arange(found.nodes), np.diff(found.indptr))
    out[row, found.indices] = np.ones(len(row)) if found.weight is None else found.weight
    return out


def expected(edges: np.ndarray, weight: np.ndarray, undirected: bool, self_loops: str) -> np.ndarray:
    """The same, an edge at a time."""
    out = np.full((V, V), np.nan)
    for (source, destination), weigh in zip(edges.T.tolist(), weight.tolist(), strict=True):
        if self_loops != "remove" or source != destination:
            out[destination, source] = weigh + np.nan_to_num(out[destination, source])
    there = out.copy()
    for node in range(V):
        for other in range(V):
            if undirected and np.isnan(there[node, other]):
                out[node, other] = there[other, node]
        if self_loops == "add" and np.isnan(there[node, node]):
            out[node, node] = 1.0
    return out


@pytest.mark.parametrize("self_loops", ["keep", "remove", "add"])
@pytest.mark.parametrize("undirected", [True, False], ids=["undirected", "directed"])
@pytest.mark.parametrize("reverse", [True, False], ids=["turned", "as they are"])
@given(seed=SEEDS, nodes=st.integers(2, V))
@settings(max_examples=15)
def test_edges_are_merged_with_their_weights(
    self_loops: str, undirected: bool, reverse: bool, seed: int, nodes: int
) -> None:
    rng = np.random.default_rng(seed)
    edges, weight = rng.integers(0, nodes, (2, E)), rng.random(E) * rng.integers(0, 2, E)
    options: dict[str, Any] = {"undirected": undirected, "self_loops": self_loops, "reverse": reverse}
    arrays = MASKS | {"edge_index": edges, "weight": weight}
    found, plain = graph("npz", arrays, **USE, **options), graph("npz", arrays, edge_weight="ignore", **options)
    assert np.array_equal(found.indices, plain.indices)
    wanted = expected(edges[::-1] if reverse else edges, weight, undirected, self_loops)
    np.testing.assert_allclose(dense(found), wanted, rtol=1e-6)
    assert plain.weight is None
    assert found.notes[0] == "weight is used (graph.edge_weight = 'use')"


def test_merged_weights_are_torchs(kind: str) -> None:
    edges, weight = CORE["edge_index"], np.random.default_rng(0).random(E)
    found = graph(kind, MASKS | {"edge_weight": weight[:, None]}, **USE, undirected=False)
    ends, merged = coalesce(torch.as_tensor(edges), torch.as_tensor(weight), V, sort_by_row=False)
    assert np.array_equal(found.indices, ends[0])
    np.testing.assert_allclose(found.weight, merged, rtol=1e-6)


@pytest.mark.parametrize("name", ["data", "values", "adj_t"])
def test_entries_of_matrices_are_weights(name: str) -> None:
    rows: dict[str, Any] = MASKS | {"edge_index": None}
    if name == "adj_t":
        found = graph("pt", rows | {name: torch.as_tensor(CSR.toarray()).to_sparse()}, **USE, undirected=False)
    else:
        matrix = {"indptr": CSR.indptr, "indices": CSR.indices, name: CSR.data}
        found = graph("npz", rows | matrix, **USE, undirected=False)
    np.testing.assert_allclose(np.nan_to_num(dense(found)), CSR.toarray(), rtol=1e-6)


def test_weights_of_one_are_weights(kind: str) -> None:
    found = graph(kind, MASKS | {"weight": np.ones(E), "edge_weights": np.ones(E)}, **USE)
    counts = np.zeros((V, V))
    np.add.at(counts, (CORE["edge_index"][1], CORE["edge_index"][0]), 1.0)
    assert np.array_equal(dense(found)[counts > 0], counts[counts > 0])


WRONG = {
    "none": ({}, "graph.edge_weight = 'use', and it gives no weights of edges"),
    "two": (
        {"weight": np.arange(E), "edge_w": np.arange(E)[::-1]},
        "weight, edge_w each give edges weights: leave all",
    ),
    "too many": (
        {"weight": np.arange(E + 1)},
        rf"it: weight holds int64 of shape ({E + 1},); expected a number an edge",
    ),
    "words": ({"weight": {"a": 1}}, "it: weight is a dict; expected a number an edge"),
    "negative": ({"weight": np.arange(E) - 3.0}, "it: weight is -3.0 at edge 0; expected finite numbers from 0 on"),
    "not finite": ({"weight": np.where(np.arange(E) == 4, np.nan, 1.0)}, "it: weight is nan at edge 4"),
    "large": (
        {"weight": np.where(np.isin(np.arange(E), (16, 17)), 2e38, 1.0)},  # both lead to node 14
        "it: weights of edges to node 14 add up to more than float32 holds: divide all by their mean",
    ),
    "beyond float64": ({"weight": np.full(E, 1e308)}, "add up to more than float32 holds"),
    "another layout": (
        {"adj_t": sp.csr_matrix((np.arange(1, E + 1), CORE["edge_index"][::-1]), shape=(V, V))},
        "it: adj_t gives weights, in an order that edge_index has not",
    ),
}


@pytest.mark.parametrize(("arrays", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_weight_is_refused(arrays: dict[str, Any], said: str) -> None:
    assert said in refusal("npz", MASKS | arrays, **USE)


def test_a_graph_of_weights_is_another_graph() -> None:
    facts = graph("npz", MASKS | {"weight": np.arange(E)}, **USE).facts
    job, other = (Job(name="any", graph=GraphJob(source="npz:it", edge_weight=way)) for way in ("use", "ignore"))
    used = fields_used(job, facts)
    assert used == fields_used(other, facts) | {"graph.edge_weight": "use", "graph.reverse": False}


@settings(max_examples=30)
@given(SEEDS, st.data())
def test_a_union_has_those_of_pygs_induced_subgraph(seed: int, data: st.DataObject) -> None:
    weight = np.random.default_rng(seed).random(E)
    whole = graph("npz", MASKS | {"weight": weight}, **USE, features="none")
    parts = data.draw(st.integers(1, 6), label="parts")
    chosen = data.draw(st.lists(st.integers(0, parts - 1), min_size=1, unique=True), label="chosen")
    with stored(whole, parts) as file:
        assert file.weighted
        ids = source_ids(file, chosen)
        union = loader.load_union(file, chosen, Role.VALIDATION).graph.adjacency
    row = np.repeat(np.arange(V), np.diff(whole.indptr))
    edges = torch.from_numpy(np.stack([whole.indices, row]))
    known = Data(edge_index=edges, edge_attr=torch.as_tensor(whole.weight), id=torch.arange(V), num_nodes=V)
    part = known.subgraph(torch.from_numpy(np.isin(np.arange(V), ids)))
    pairs = map(tuple, part.id[part.edge_index].t().tolist())
    wanted = dict(zip(pairs, part.edge_attr.tolist(), strict=True))
    ends = np.stack([ids[union.indices.numpy()], ids[union.row.numpy()]]).T.tolist()
    assert {tuple(each): weigh for each, weigh in zip(ends, union.values.tolist(), strict=True)} == wanted


def test_the_hash_of_a_graph_depends_on_them(tmp_path: Path) -> None:
    found = []
    for weights in (np.arange(E), np.arange(E)[::-1], None):
        arrays = MASKS if weights is None else MASKS | {"weight": weights}
        with stored(graph("npz", arrays, **(USE if weights is not None else {})), 3) as file:
            found.append(file.sha256)
            assert file.weighted == (weights is not None)
    assert len(set(found)) == 3


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_a_damaged_weight_is_found(tmp_path: Path, wrong: float) -> None:
    with stored(graph("npz", MASKS | {"weight": np.arange(E)}, **USE), 1) as file:
        path = tmp_path / "copy.h5"
        path.write_bytes(file.path.read_bytes())
    with h5py.File(path, "r+") as copy:
        copy["edges/edge_weight"][3] = wrong
    with graph_store.open_file(path) as file, pytest.raises(FileError, match=r"damaged: of edges 0 to .* no weight"):
        file.weights(file.bounds(0, V))


def test_files_without_are_refused_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="'ignore' goes on without, 'use' computes with them"):
        graph("npz", MASKS | {"weight": np.arange(E)})
