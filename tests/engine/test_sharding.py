"""Passes that ranks make together, over a world of threads, against one rank's: rows bit for bit, sums to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.engine import sharding
from gnnsoup_hpc.engine.compiled.plan import Plan
from gnnsoup_hpc.engine.sharding import NodeShare
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from tests.arbitrary import SEEDS, Structure, random_structure, structures
from tests.shares import CLASSES, FEATURES, HIDDEN, a_view, compare

KINDS = st.sampled_from(["gcn", "sage"])


pytestmark = pytest.mark.usefixtures("sections_of_three_rows")


def compared(net: Architecture, view: Batch, size: int, row_work: list[int] | None, apart: bool) -> None:
    """Ranks together against one alone; `apart`: they are given features one by one."""
    x = view.graph.x.numpy()
    bare = Batch(Subgraph(torch.empty(len(x), 0), view.graph.adjacency), view.nodes, view.labels)

    def planned(split: NodeShare | None) -> Plan:
        ours, x_of = (bare, lambda ids: x[ids]) if apart and split else (view, None)
        return Plan.of(ours, net.kind, net.layers, None, split, x_of, row_work)

    compare(net, planned, size, tolerance=1e-12)


@given(structures(12), KINDS, st.integers(1, 4), st.integers(2, 4), SEEDS, st.data())
def test_ranks_together_compute_what_one_does(
    shape: Structure, kind: str, layers: int, size: int, seed: int, data: st.DataObject
) -> None:
    asked = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="asked"))
    norm = data.draw(st.sampled_from(["none", "layer"]), label="norm")
    net = Architecture(kind, layers, FEATURES, HIDDEN, CLASSES, norm=norm)
    work = data.draw(st.sampled_from([None, [1] * layers, list(range(1, layers + 1))]), label="work")
    compared(net, a_view(shape, asked, seed), size, work, data.draw(st.booleans(), label="apart"))


@pytest.mark.parametrize("kind", ["gcn", "sage"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_larger_graphs_have_borders_of_many_rows(kind: str, size: int) -> None:
    net = Architecture(kind, 3, FEATURES, HIDDEN, CLASSES, norm="layer")
    view = a_view(random_structure(200, 900), list(range(0, 200, 3)), 3)
    plans = [Plan.of(view, kind, 3, None, NodeShare(rank, size)) for rank in range(size)]
    assert all(len(border.states[0][0]) > 1 for plan in plans for border in plan.shard.borders)
    assert all(sum(stop - start for start, stop in plan.lanes(0)) < 2 * 200 / size for plan in plans)
    compared(net, view, size, None, apart=True)


def test_more_ranks_than_sections_leave_some_without_work() -> None:
    view = a_view(random_structure(8, 20), [1, 4], 0)
    plans = [Plan.of(view, "gcn", 2, None, NodeShare(rank, 5)) for rank in range(5)]
    assert any(not plan.lanes(0) for plan in plans)
    compared(Architecture("gcn", 2, FEATURES, HIDDEN, CLASSES), view, 5, None, apart=False)


@given(structures(12), st.integers(2, 4), st.integers(2, 3), st.data())
def test_what_one_rank_sends_is_what_the_other_expects(
    shape: Structure, size: int, layers: int, data: st.DataObject
) -> None:
    """Each border's rows are the same nodes, in the same order, on its two sides."""
    asked = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1)))
    indptr, indices = (array.astype(np.int32) for array in shape.csr)
    scale = np.ones(shape.nodes, dtype=np.float32)
    made = [
        sharding.Shard.of((indptr, indices), scale, np.array(asked), [1] * layers, NodeShare(rank, size))
        for rank in range(size)
    ]

    def nodes(shard: sharding.Shard, rows: np.ndarray) -> list[int]:
        return shard.ids[shard.order[rows]].tolist()  # type: ignore[index]

    for rank, shard in enumerate(made):
        for border in shard.borders:
            back = next(b for b in made[border.rank].borders if b.rank == rank)
            for mine, theirs in ((border.states, back.states), (border.gradients, back.gradients)):
                for (sent, _), (_, got) in zip(mine, theirs, strict=True):
                    assert nodes(shard, sent) == nodes(made[border.rank], got)
