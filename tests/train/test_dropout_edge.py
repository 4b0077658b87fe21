"""Edge dropping: the right share, the same at each look, an edge and its reverse alike, degrees of what remains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.train.batches import dropout_edge
from gnnsoup_hpc.utils.rng import derive_seed
from tests.arbitrary import normal, random_structure, structure

NODES, ENTRIES = 400, 40_000
RATES = (0.05, 0.2, 0.5, 0.9)


def view(adjacency: Adjacency) -> Batch:
    nodes = torch.arange(adjacency.nodes)
    return Batch(Subgraph(normal(0, adjacency.nodes, 5, kind=torch.float32), adjacency), nodes, nodes % 3)


def dense(adjacency: Adjacency) -> Tensor:
    """The (V, V) matrix of zeros and ones."""
    matrix = torch.zeros(adjacency.nodes, adjacency.nodes)
    matrix[adjacency.row.long(), adjacency.indices.long()] = 1.0
    return matrix


@pytest.fixture(scope="module")
def directed() -> Batch:
    return view(random_structure(NODES, ENTRIES).adjacency())


@pytest.fixture(scope="module")
def undirected() -> Batch:
    entries = random_structure(NODES, ENTRIES // 2).entries
    return view(structure(NODES, {*entries, *((column, row) for row, column in entries)}).adjacency())


@pytest.mark.parametrize("rate", RATES)
def test_the_share_that_is_left_out_is_the_rate(directed: Batch, rate: float) -> None:
    entries = len(directed.graph.adjacency.indices)
    for step in range(3):
        left = len(dropout_edge(directed, rate, derive_seed(0, 0, 1, step)).graph.adjacency.indices)
        assert abs((1 - left / entries) - rate) < 5 * (2 * rate * (1 - rate) / entries) ** 0.5


def test_what_is_left_is_a_part_of_what_was_there(directed: Batch) -> None:
    whole, left = dense(directed.graph.adjacency), dense(dropout_edge(directed, 0.3, 7).graph.adjacency)
    assert bool((left <= whole).all())
    assert 0 < left.sum() < whole.sum()


def test_at_rate_zero_all_is_left(directed: Batch) -> None:
    left, whole = dropout_edge(directed, 0.0, 7).graph.adjacency, directed.graph.adjacency
    assert torch.equal(left.indptr, whole.indptr)
    assert torch.equal(left.indices, whole.indices)
    assert (left.indptr.dtype, left.indices.dtype) == (whole.indptr.dtype, whole.indices.dtype)


def test_the_key_decides_and_nothing_else(directed: Batch) -> None:
    once, again = (dense(dropout_edge(directed, 0.5, 11).graph.adjacency) for _ in range(2))
    other = dense(dropout_edge(directed, 0.5, 12).graph.adjacency)
    assert torch.equal(once, again)
    whole = dense(directed.graph.adjacency)
    assert abs(float((once * other).sum() / whole.sum()) - 0.25) < 0.02  # independent: half of a half


def test_a_larger_rate_leaves_out_more_of_the_same(directed: Batch) -> None:
    small, large = (dense(dropout_edge(directed, rate, 3).graph.adjacency) for rate in (0.2, 0.4))
    assert bool((large <= small).all())


def test_an_edge_and_its_reverse_go_together(undirected: Batch) -> None:
    left = dense(dropout_edge(undirected, 0.4, 5).graph.adjacency)
    assert torch.equal(left, left.t())
    assert left.sum() < dense(undirected.graph.adjacency).sum()


def test_every_node_loses_its_share(undirected: Batch) -> None:
    """No node is spared or stripped for its number: mean share over many keys, of each node by itself."""
    whole = undirected.graph.adjacency.degree[:-1]  # the last node has no edge
    kept = (
        sum(dropout_edge(undirected, 0.5, derive_seed(1, step)).graph.adjacency.degree[:-1] for step in range(60)) / 60
    )
    assert float((kept / whole - 0.5).abs().max()) < 0.06


def test_degrees_and_the_first_hop_are_those_of_what_remains(directed: Batch) -> None:
    assert directed.graph.mean_x is not None  # known of the whole view, and not to be taken from there
    left = dropout_edge(directed, 0.6, 9).graph
    matrix = dense(left.adjacency)
    assert torch.equal(left.adjacency.degree, matrix.sum(1))
    mean = matrix @ left.x / matrix.sum(1).clamp(min=1.0)[:, None]
    torch.testing.assert_close(left.mean_x, mean)
    looped = matrix.clone().fill_diagonal_(1.0)
    scale = looped.sum(1).rsqrt()
    torch.testing.assert_close(left.gcn_x, scale[:, None] * looped @ (scale[:, None] * left.x))


def test_seeds_targets_and_features_stay(directed: Batch) -> None:
    left = dropout_edge(directed, 0.6, 9)
    assert left.seeds is directed.seeds
    assert left.targets is directed.targets
    assert left.graph.x is directed.graph.x
    assert replace(left, graph=directed.graph) == directed


def test_the_number_of_threads_changes_nothing(directed: Batch) -> None:
    one = dropout_edge(directed, 0.5, 2**63 - 1).graph.adjacency
    torch.set_num_threads(3)
    try:
        three = dropout_edge(directed, 0.5, 2**63 - 1).graph.adjacency
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one.indices, three.indices)
