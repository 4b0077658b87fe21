"""What a batch needs, against dense matrices: rows and columns of each layer, the first aggregation, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.engine.compiled.engine import CompiledEngine
from gnnsoup_hpc.engine.compiled.kernels.sums import write_scaled_sums
from gnnsoup_hpc.engine.frontier import Frontier, find_frontier
from gnnsoup_hpc.graph.subgraph import MEAN, NORMALISED_SUM, Aggregation, Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.utils.out_of_core import BufferPool
from tests.arbitrary import SEEDS, Structure, aggregation_matrix, normal, random_batch, random_state, structures

AGGREGATIONS = st.sampled_from([MEAN, NORMALISED_SUM])
PATH = Structure(10, tuple((node + 1, node) for node in range(9)))


def find_reach(shape: Structure, seeds: list[int], hops: int) -> list[int]:
    """Nodes within so many hops, in the order of a frontier: hop after hop, each rising."""
    order = list(seeds)
    for _ in range(hops):
        order += sorted({source for row, source in shape.entries if row in order} - set(order))
    return order


def to_dense(rows: int, columns: int, *structure_and_scales: np.ndarray) -> torch.Tensor:
    """The matrix of a product: what it makes of the unit vectors."""
    out = np.empty((rows, columns))
    write_scaled_sums(0, rows, *structure_and_scales, np.eye(columns), out, False)
    return torch.from_numpy(out)


def structure_of(found: Frontier, rows: int, columns: int) -> torch.Tensor:
    """The first rows of the CSR structure as a dense matrix, (rows, columns) float64."""
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    for row in range(rows):
        matrix[row, found.indices[found.start[row] : found.start[row + 1]]] = 1.0
    return matrix


@st.composite
def batches(draw: st.DrawFn) -> tuple[Structure, Batch]:
    """Any structure, and a float64 batch of it: ids of two types, with or without a first aggregation and a pool."""
    shape, seed = draw(structures()), draw(SEEDS)
    seeds = sorted(draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1)))
    hop = normal(seed + 1, shape.nodes, 5) if draw(st.booleans()) else None
    ids, pool = draw(st.sampled_from([torch.int32, torch.int64])), draw(st.sampled_from([None, BufferPool(3)]))
    graph = Subgraph(normal(seed, shape.nodes, 5), shape.adjacency(ids), hop, pool)
    return shape, Batch(graph, torch.tensor(seeds), torch.zeros(len(seeds), dtype=torch.int64))


@given(batches(), AGGREGATIONS, st.integers(1, 4))
def test_a_frontier_is_the_dense_operator_on_what_is_needed(
    made: tuple[Structure, Batch], aggregation: Aggregation, depth: int
) -> None:
    shape, batch = made
    seeds = batch.seeds.tolist()
    order = find_reach(shape, seeds, depth - 1)
    matrix, graph = aggregation_matrix(aggregation.name, shape), batch.graph
    first = (matrix @ graph.x if graph.hop is None else graph.hop)[order]
    found = find_frontier(batch, aggregation, depth)
    assert found.rows == tuple(len(find_reach(shape, seeds, hops)) for hops in range(depth - 1, -1, -1))
    assert (found.shard.own, found.local, found.size) == ((0, len(seeds)), (0, len(seeds)), shape.nodes)
    torch.testing.assert_close(found.first, torch.cat([first, graph.x[order]], 1) if aggregation is MEAN else first)

    plan = CompiledEngine().plan(Architecture(aggregation.name, depth, 5, 4, 2), batch)
    for layer in range(1, depth):
        rows, columns = plan.rows[layer], plan.columns(layer)
        needed = matrix[order[:rows]][:, order[:columns]]
        scales = plan.scale, plan.column_scale
        product = to_dense(rows, columns, plan.start, plan.start[1:], plan.indices, plan.values, *scales)
        torch.testing.assert_close(product, needed)
        transpose = to_dense(columns, rows, *plan.transposes[layer], *scales[::-1])
        torch.testing.assert_close(transpose, needed.T)


@given(batches(), st.booleans(), st.integers(1, 4))
def test_without_an_aggregation_it_is_the_structure_of_all_layers(
    made: tuple[Structure, Batch], loops: bool, depth: int
) -> None:
    shape, batch = made
    seeds = batch.seeds.tolist()
    order, matrix = find_reach(shape, seeds, depth), shape.dense
    if loops:
        matrix.fill_diagonal_(1.0)
    found = find_frontier(batch, None, depth, loops=loops)
    assert found.rows == tuple(len(find_reach(shape, seeds, hops)) for hops in range(depth - 1, -1, -1))
    assert torch.equal(found.first, batch.graph.x[order])
    for layer in range(depth):
        rows, columns = found.rows[layer], found.columns(layer)
        assert torch.equal(structure_of(found, rows, columns), matrix[order[:rows]][:, order[:columns]])


def test_a_frontier_on_a_path() -> None:
    """Node 9 of 0 -> 1 -> ... -> 9 needs with three layers nodes 9, 8, 7 and the features of 6."""
    graph = Subgraph(torch.arange(10.0)[:, None], PATH.adjacency())
    batch = Batch(graph, torch.tensor([9]), torch.tensor([0]))
    found = find_frontier(batch, MEAN, 3)
    assert found.rows == (3, 2, 1)
    assert found.first.tolist() == [[8.0, 9.0], [7.0, 8.0], [6.0, 7.0]]
    plan = CompiledEngine().plan(Architecture("gat", 2, 1, 4, 2), batch)
    assert plan.rows == (2, 1)
    assert plan.first.tolist() == [[9.0], [8.0], [7.0]]
    assert plan.indices.tolist() == [1, 0, 2, 1]  # of each row the in-neighbour, then the node itself
    start, end, rows, _ = plan.transposes[1]
    assert [rows[a:b].tolist() for a, b in zip(start, end, strict=False)] == [[0], [0]]


@pytest.mark.parametrize("aggregation", [MEAN, NORMALISED_SUM], ids=lambda each: each.name)
def test_a_feature_that_is_not_finite_stays_where_it_belongs(aggregation: Aggregation) -> None:
    """Node 1 has a self-loop; its infinity reaches itself and node 2, and is no NaN."""
    shape = Structure(3, ((1, 1), (2, 1)))
    graph = Subgraph(torch.tensor([[1.0], [torch.inf], [1.0]]), shape.adjacency())
    found = find_frontier(Batch(graph, torch.arange(3), torch.zeros(3, dtype=torch.int64)), aggregation, 1)
    assert found.first[:, 0].isinf().tolist() == [False, True, True]
    assert not found.first.isnan().any()


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_the_transpose_is_productfor_gradients_alone(kind: str) -> None:
    net, batch = Architecture(kind, 3, 5, 4, 2), random_batch(PATH, [4, 9], 5, 2)
    plan, state = CompiledEngine().plan(net, batch), random_state(net)
    list(CompiledEngine().interpolate(plan, (state, state), [(0.5, state)]))
    logits = CompiledEngine().logits(plan, state)
    assert "transposes" not in vars(plan)
    CompiledEngine().vjp(plan, state)[1](logits)
    assert "transposes" in vars(plan)
