"""METIS through what it promises alone: no empty part, each node in one, cut and balance counted right."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gnnsoup_hpc.config import GraphJob, PartitionJob, loading
from gnnsoup_hpc.data import partition
from gnnsoup_hpc.data.partition import cut_in_process, partition_graph, weigh_edges, weigh_nodes
from gnnsoup_hpc.data.sources import named
from gnnsoup_hpc.data.sources.raw import finish
from gnnsoup_hpc.errors import JobError, PartError
from gnnsoup_hpc.graph.graph import Graph, Partition
from gnnsoup_hpc.runtime.profiling import Meter
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.types import Role
from tests import arbitrary, tiny
from tests.arbitrary import graph, graphs, structure


def all_validation(nodes: int, entries: set[tuple[int, int]]) -> Graph:
    return graph(structure(nodes, entries), [Role.VALIDATION] * nodes)


EMPTY = all_validation(9, set())
STAR = all_validation(12, {(0, leaf) for leaf in range(1, 12)})
LOOPS = all_validation(6, {(node, node) for node in range(6)})
TWO_ISLANDS = all_validation(8, {(a, b) for a in range(8) for b in range(8) if a // 4 == b // 4 and a != b})


def check(graph: Graph, cut: Partition, parts: int) -> None:
    """What holds of every partition, the cut counted anew, edge by edge."""
    assert cut.parts == parts
    assert np.bincount(cut.part, minlength=parts).min() > 0
    assert len(cut.part) == graph.nodes
    assert cut.part.max() < parts
    assert sorted(cut.order.tolist()) == list(range(graph.nodes))
    for part in range(parts):
        members = cut.order[cut.ptr[part] : cut.ptr[part + 1]]
        assert members.tolist() == np.flatnonzero(cut.part == part).tolist()

    row = np.repeat(np.arange(graph.nodes), np.diff(graph.indptr))
    pairs = {frozenset(pair) for pair in zip(row.tolist(), graph.indices.tolist(), strict=True) if len(set(pair)) == 2}
    assert cut.edges == len(pairs)
    assert cut.edge_cut == sum(len({int(cut.part[node]) for node in pair}) == 2 for pair in pairs)

    sizes = np.bincount(cut.part)
    validation = np.bincount(cut.part[graph.role == Role.VALIDATION], minlength=parts)
    assert cut.balance == pytest.approx(sizes.max() * parts / graph.nodes)
    assert cut.validation_balance == pytest.approx(validation.max() * parts / validation.sum())


@settings(max_examples=100)
@given(graphs(), st.integers(1, 14), st.integers(0, 3))
@example(EMPTY, 4, 0)
@example(EMPTY, 9, 0)
@example(STAR, 5, 0)
@example(STAR, 12, 0)
@example(LOOPS, 3, 0)
@example(TWO_ISLANDS, 2, 0)
@example(all_validation(1, {(0, 0)}), 1, 0)
def test_every_partition(graph: Graph, parts: int, seed: int) -> None:
    parts = min(parts, graph.nodes)
    check(graph, partition_graph(graph, PartitionJob(parts=parts, seed=seed)), parts)


def test_islands_are_not_cut() -> None:
    cut = partition_graph(TWO_ISLANDS, PartitionJob(parts=2))
    assert cut.edge_cut == 0
    assert cut.balance == 1.0


def test_one_part_holds_everything() -> None:
    cut = partition_graph(STAR, PartitionJob(parts=1))
    assert cut.ptr.tolist() == [0, 12]
    assert cut.edge_cut == 0


def test_nodes_without_edges_are_spread_evenly() -> None:
    cut = partition_graph(EMPTY, PartitionJob(parts=3))
    assert np.bincount(cut.part).tolist() == [3, 3, 3]


def test_more_parts_than_nodes_are_refused() -> None:
    with pytest.raises(PartError, match=r"partition.parts = 7 \(K\) is more than the graph's 6 nodes"):
        partition_graph(LOOPS, PartitionJob(parts=7))


@pytest.fixture(scope="module")
def planted() -> Graph:
    """A planted graph of 1200 nodes, a tenth of them for validation."""
    raw = named.make_graph(tiny.planted(nodes=1200), "planted", (), "stored", GraphJob())
    roles = np.random.default_rng(1).choice(list(Role), 1200, p=[0.2, 0.5, 0.1, 0.2]).astype(np.uint8)
    return finish(raw, roles, GraphJob())


def test_same_seed_same_parts(planted: Graph) -> None:
    job = PartitionJob(parts=8, seed=5)
    assert np.array_equal(partition_graph(planted, job).part, partition_graph(planted, job).part)
    other = partition_graph(planted, PartitionJob(parts=8, seed=6))
    assert not np.array_equal(partition_graph(planted, job).part, other.part)


def test_size_and_validation_nodes_are_balanced(planted: Graph) -> None:
    cut = partition_graph(planted, PartitionJob(parts=8))
    check(planted, cut, 8)
    weight = np.bincount(cut.part, weights=weigh_nodes(planted))
    assert weight.max() < 1.1 * weight.mean()  # what METIS balances: the sum of both
    assert cut.balance < 1.75
    assert cut.validation_balance < 1.75
    assert cut.edge_cut < 7 / 8 * cut.edges  # what random parts would cut


def test_validation_nodes_weigh_as_much_as_all_nodes(planted: Graph) -> None:
    weights = weigh_nodes(planted)
    validation = planted.role == Role.VALIDATION
    assert set(weights[~validation].tolist()) == {1}
    assert (weights - 1).sum() == pytest.approx(planted.nodes, rel=0.06)  # to whole weights of about ten


def test_direction_is_no_matter_to_the_parts() -> None:
    shape = arbitrary.random_structure(40, 120)
    backwards = structure(40, {(source, destination) for destination, source in shape.entries})
    roles = [Role.VALIDATION] * 40
    one, other = (partition_graph(graph(s, roles), PartitionJob(parts=4)) for s in (shape, backwards))
    assert np.array_equal(one.part, other.part)


def weighed(graph: Graph, seed: int, across: float = 0.0) -> Graph:
    """The graph with weights; between nodes of unlike parity times `across`."""
    row = np.repeat(np.arange(graph.nodes), np.diff(graph.indptr))
    weight = np.random.default_rng(seed).uniform(0.5, 1.0, len(row))
    weight[row % 2 != graph.indices % 2] *= across
    return replace(graph, weight=weight.astype(np.float32))


def dense_weights(graph: Graph) -> np.ndarray:
    matrix = np.zeros((graph.nodes, graph.nodes))
    matrix[np.repeat(np.arange(graph.nodes), np.diff(graph.indptr)), graph.indices] = graph.weight
    return matrix


@given(graphs(), st.sampled_from([0.0, 1e-6, 1e30]), arbitrary.SEEDS)
def test_metis_gets_the_weight_of_both_directions(graph: Graph, across: float, seed: int) -> None:
    graph = weighed(graph, seed, across)
    wanted = dense_weights(graph)
    wanted += wanted.T
    np.fill_diagonal(wanted, 0.0)
    indptr, indices, weights = weigh_edges(graph)
    row = np.repeat(np.arange(graph.nodes), np.diff(indptr))
    assert set(zip(row.tolist(), indices.tolist(), strict=True)) == set(zip(*map(list, wanted.nonzero()), strict=True))
    assert weights.min(initial=1) >= 1
    if len(weights):
        share = wanted[row, indices] / wanted[wanted > 0].mean()
        np.testing.assert_allclose(weights, np.maximum(1000 * share, 1), atol=0.5, rtol=1e-6)


def test_what_weighs_little_is_cut(planted: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between nodes of unlike parity: as good as nothing of the weight. METIS in a process of its own cuts the same."""
    graph = weighed(planted, 0, 1e-4)
    plain, job = PartitionJob(parts=2), PartitionJob(parts=2, edge_weight="use")
    cuts = {each.edge_weight: partition_graph(graph, each) for each in (plain, job)}
    assert np.array_equal(cuts["ignore"].part, partition_graph(planted, plain).part)
    weights = dense_weights(graph)
    lost = {way: weights[cut.part[:, None] != cut.part].sum() / weights.sum() for way, cut in cuts.items()}
    assert lost["use"] < 0.01 < 0.1 < lost["ignore"]
    check(graph, cuts["use"], 2)
    monkeypatch.setattr(partition, "run_metis", lambda folder, log: partition.main(folder))
    with Meter(torch.device("cpu")) as meter:
        apart = partition_graph(graph, job, partial(cut_in_process, tmp_path, meter, Log(quiet=True)))
    assert np.array_equal(apart.part, cuts["use"].part)


def test_weights_that_are_all_zero_bind_nothing(planted: Graph) -> None:
    graph = replace(planted, weight=np.zeros(len(planted.indices), dtype=np.float32))
    check(graph, partition_graph(graph, PartitionJob(parts=8, edge_weight="use")), 8)


def test_a_graph_without_weights_is_not_cut_by_them(planted: Graph) -> None:
    with pytest.raises(PartError, match=r"partition.edge_weight = 'use', and the graph has no weights of edges"):
        partition_graph(planted, PartitionJob(parts=2, edge_weight="use"))
    with pytest.raises(JobError, match=r"partition.edge_weight = 'use' .*graph.edge_weight = 'refuse' leaves"):
        loading.load("pubmed", ["partition.edge_weight=use"])
