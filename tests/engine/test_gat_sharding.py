"""GAT's passes that ranks make together, over a world of threads, against one rank's: rows bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.engine.compiled.gat.plan import GatPlan
from gnnsoup_hpc.engine.sharding import NodeShare
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Dense, Precision
from tests.arbitrary import SEEDS, Structure, random_structure, structures
from tests.shares import CLASSES, FEATURES, HIDDEN, a_view, compare, scored
from tests.world import World, on_all_ranks

pytestmark = pytest.mark.usefixtures("sections_of_three_rows")


def compared(net: Architecture, view: Batch, size: int, work: list[int] | None, apart: bool) -> None:
    """Ranks together against one alone; `apart`: they are given features one by one."""
    x = view.graph.x.numpy()

    def planned(split: NodeShare | None) -> GatPlan:
        return GatPlan.of(view, net.layers, split, (lambda ids: x[ids]) if apart and split else None, work)

    compare(net, planned, size, tolerance=1e-11)


@given(structures(12), st.sampled_from([1, 2, 3]), st.integers(1, 4), st.integers(2, 4), SEEDS, st.data())
def test_ranks_together_compute_what_one_does(
    shape: Structure, heads: int, layers: int, size: int, seed: int, data: st.DataObject
) -> None:
    asked = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="asked"))
    norm = data.draw(st.sampled_from(["none", "layer"]), label="norm")
    classes = data.draw(st.sampled_from([CLASSES, 2 * HIDDEN]), label="classes")  # few: values are summed up
    net = Architecture("gat", layers, FEATURES, HIDDEN, classes, heads, norm)
    work = data.draw(st.sampled_from([None, list(range(1, layers + 2))]), label="work")
    compared(net, a_view(shape, asked, seed), size, work, data.draw(st.booleans(), label="apart"))


@pytest.mark.parametrize("features", [FEATURES, HIDDEN + 5])  # the first layer sums up features, or values
@pytest.mark.parametrize("size", [2, 3, 5])
def test_larger_graphs_have_borders_of_many_rows(features: int, size: int) -> None:
    net = Architecture("gat", 3, features, HIDDEN, CLASSES, heads=2, norm="layer")
    view = a_view(random_structure(200, 900), list(range(0, 200, 3)), 3, features)
    plans = [GatPlan.of(view, 3, NodeShare(rank, size)) for rank in range(size)]
    assert all(len(entries) > 1 for plan in plans for _, sent, got in plan.crossing[0] for entries in (sent, got))
    assert all(sum(stop - start for start, stop in plan.shard.lanes(0)) < 2 * 200 / size for plan in plans)
    compared(net, view, size, None, apart=True)


def test_more_ranks_than_sections_leave_some_without_work() -> None:
    view = a_view(random_structure(8, 20), [1, 4], 0)
    plans = [GatPlan.of(view, 2, NodeShare(rank, 5)) for rank in range(5)]
    assert any(not plan.shard.lanes(0) for plan in plans)
    compared(Architecture("gat", 2, FEATURES, HIDDEN, CLASSES, heads=2), view, 5, None, apart=False)


@given(structures(12), st.integers(2, 4), st.integers(1, 3), st.data())
def test_what_one_rank_sends_of_entries_is_what_the_other_expects(
    shape: Structure, size: int, layers: int, data: st.DataObject
) -> None:
    """Entries that cross a border are the same pairs of nodes, in the same order, on its two sides."""
    asked = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1)))
    view = a_view(shape, asked, 0)
    view.graph.x[:, 0] = torch.arange(shape.nodes)
    plans = [GatPlan.of(view, layers, NodeShare(rank, size)) for rank in range(size)]

    def pairs(plan: GatPlan, entries: np.ndarray) -> list[tuple[float, float]]:
        rows = np.searchsorted(plan.start, entries, "right") - 1
        return list(zip(plan.x[rows, 0].tolist(), plan.x[plan.indices[entries], 0].tolist(), strict=True))

    for rank, plan in enumerate(plans):
        for layer in range(layers):
            for other, sent, _ in plan.crossing[layer]:
                got = next(got for back, _, got in plans[other].crossing[layer] if back == rank)
                assert pairs(plan, sent) == pairs(plans[other], got)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_so_they_do_in_any_precision(precision: Precision) -> None:
    net = Architecture("gat", 2, FEATURES, HIDDEN, CLASSES, heads=2)
    view = a_view(random_structure(60, 300), list(range(60)), 1)

    def of_rank(world: World) -> Dense:
        return scored(net, replace(GatPlan.of(view, 2, NodeShare(world.rank, 3)), precision=precision), world)

    alone = scored(net, replace(GatPlan.of(view, 2), precision=precision), None)
    np.testing.assert_array_equal(np.concatenate(on_all_ranks(3, of_rank)), alone)
