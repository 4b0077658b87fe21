"""A plan against dense matrices: what each layer multiplies, forward and backward, and the first hop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.engine.compiled.plan import Plan, Sums
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.utils.buffers import BufferPool
from tests.arbitrary import SEEDS, Structure, normal, structures

KINDS = st.sampled_from(["gcn", "sage"])


def operator(kind: str, shape: Structure) -> torch.Tensor:
    """The (V, V) float64 matrix that a hop multiplies by."""
    matrix = shape.dense
    if kind == "sage":
        return matrix / matrix.sum(1, keepdim=True).clamp(min=1.0)
    matrix.fill_diagonal_(1.0)
    scale = matrix.sum(1).rsqrt()
    return scale[:, None] * matrix * scale


def as_dense(sums: Sums, columns: int) -> torch.Tensor:
    """The matrix of a product: what it makes of the unit vectors."""
    out = np.empty((len(sums.start), columns))
    sums.into(0, len(out), np.eye(columns), out)
    return torch.from_numpy(out)


def reach(shape: Structure, asked: list[int], hops: int) -> list[int]:
    """Nodes within so many hops, in the order of a plan: hop after hop, each rising."""
    order = list(asked)
    for _ in range(hops):
        found = {source for row, source in shape.entries if row in order} - set(order)
        order += sorted(found)
    return order


@given(structures(), KINDS, st.integers(1, 4), SEEDS, st.data())
def test_a_plan_is_the_dense_operators_on_what_is_needed(
    shape: Structure, kind: str, depth: int, seed: int, data: st.DataObject
) -> None:
    asked = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="asked"))
    x = normal(seed, shape.nodes, 5)
    hop = normal(seed + 1, shape.nodes, 5) if data.draw(st.booleans(), label="hop is given") else None
    kind_of_ids = data.draw(st.sampled_from([torch.int32, torch.int64]), label="ids")
    graph = Subgraph(
        x, shape.adjacency(kind_of_ids), hop, data.draw(st.sampled_from([None, BufferPool(3)]), label="pool")
    )
    plan = Plan.of(Batch(graph, torch.tensor(asked), torch.zeros(len(asked), dtype=torch.int64)), kind, depth)
    order = reach(shape, asked, depth - 1)
    assert plan.rows == tuple(len(reach(shape, asked, hops)) for hops in range(depth - 1, -1, -1))
    dense = operator(kind, shape)
    first = (dense @ x if hop is None else hop)[order]
    wanted = torch.cat([first, x[order]], 1) if kind == "sage" else first
    torch.testing.assert_close(plan.first, wanted)
    for layer, columns, rows in zip(plan.layers, plan.rows[:-1], plan.rows[1:], strict=True):
        matrix = dense[order[:rows]][:, order[:columns]]
        torch.testing.assert_close(as_dense(layer.sums, columns), matrix)
        torch.testing.assert_close(as_dense(layer.transpose, rows), matrix.T)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_a_feature_that_is_not_finite_stays_where_it_belongs(kind: str) -> None:
    """Node 1 has a self-loop; its infinity reaches itself and node 2, and is no NaN."""
    shape = Structure(3, ((1, 1), (2, 1)))
    x = torch.tensor([[1.0], [torch.inf], [1.0]])
    plan = Plan.of(Batch(Subgraph(x, shape.adjacency()), torch.arange(3), torch.zeros(3, dtype=torch.int64)), kind, 1)
    assert plan.first[:, 0].isinf().tolist() == [False, True, True]
    assert not plan.first.isnan().any()
