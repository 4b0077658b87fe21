"""Passes that ranks make together, over a world of threads, against one rank's: rows bit for bit, sums to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc import shards
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.passes import Pass
from gnnsoup_hpc.plan import Plan
from gnnsoup_hpc.records import Dense
from gnnsoup_hpc.shards import Split
from gnnsoup_hpc.soup.team import swap_over
from gnnsoup_hpc.subgraph import Subgraph, View
from tests.arbitrary import SEEDS, Structure, normal, random_structure, structures
from tests.world import World, on_all_ranks

HIDDEN, CLASSES, FEATURES = 6, 3, 5
KINDS = st.sampled_from(["gcn", "sage"])


@pytest.fixture(autouse=True, scope="module")
def small_sections() -> None:
    """Sections of three rows, or small graphs would have one alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_SECTION_ROWS", 3)
        yield


def a_view(shape: Structure, asked: list[int], seed: int, features: int = FEATURES) -> View:
    graph = Subgraph(normal(seed, shape.nodes, features).float(), shape.adjacency())
    return View(graph, torch.tensor(asked), torch.zeros(len(asked), dtype=torch.int64))


def a_state(net: Architecture) -> dict[str, Dense]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator).numpy() for name, shape in net.shapes().items()}


def passed(net: Architecture, plan: Plan, state: dict[str, Dense], grad: Dense, world: World | None) -> tuple:
    """(asked nodes, class scores, gradients) of one rank."""
    run = Pass(net, plan, state, keep=True, swap=None if world is None else swap_over(world))  # type: ignore[arg-type]
    scores = run.forward().copy()
    return plan.shard.asked, scores, run.backward(grad[slice(*plan.shard.asked)].copy())


def compare(net: Architecture, view: View, size: int, row_work: list[int] | None, apart: bool) -> None:
    """Ranks together against one alone; `apart`: they are given features one by one."""
    state, count = a_state(net), len(view.nodes)
    grad = normal(7, count, CLASSES).float().numpy()
    _, wanted, gradients = passed(net, Plan.of(view, net.kind, net.layers, row_work=row_work), state, grad, None)
    x = view.graph.x.numpy()

    def rank(world: World) -> tuple:
        bare = View(Subgraph(torch.empty(len(x), 0), view.graph.adjacency), view.nodes, view.labels)
        ours, x_of = (bare, lambda ids: x[ids]) if apart else (view, None)
        plan = Plan.of(ours, net.kind, net.layers, None, Split(world.rank, size), x_of, row_work)
        scored = Pass(net, plan, state, keep=False, swap=swap_over(world)).forward()  # type: ignore[arg-type]
        found = passed(net, plan, state, grad, world)
        np.testing.assert_array_equal(scored, found[1])
        return found

    found = on_all_ranks(size, rank)
    assert [node for asked, _, _ in found for node in range(*asked)] == list(range(count))
    np.testing.assert_array_equal(np.concatenate([scores for _, scores, _ in found]), wanted)
    for name, gradient in gradients.items():
        total = sum(mine[name] for _, _, mine in found)
        np.testing.assert_allclose(total, gradient, rtol=1e-12, atol=1e-12 * abs(gradient).max(), err_msg=name)


@given(structures(12), KINDS, st.integers(1, 4), st.integers(2, 4), SEEDS, st.data())
def test_ranks_together_compute_what_one_does(
    shape: Structure, kind: str, layers: int, size: int, seed: int, data: st.DataObject
) -> None:
    asked = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="asked"))
    norm = data.draw(st.sampled_from(["none", "layer"]), label="norm")
    net = Architecture(kind, layers, FEATURES, HIDDEN, CLASSES, norm=norm)
    work = data.draw(st.sampled_from([None, [1] * layers, list(range(1, layers + 1))]), label="work")
    compare(net, a_view(shape, asked, seed), size, work, data.draw(st.booleans(), label="apart"))


@pytest.mark.parametrize("kind", ["gcn", "sage"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_larger_graphs_have_borders_of_many_rows(kind: str, size: int) -> None:
    net = Architecture(kind, 3, FEATURES, HIDDEN, CLASSES, norm="layer")
    view = a_view(random_structure(200, 900), list(range(0, 200, 3)), 3)
    plans = [Plan.of(view, kind, 3, None, Split(rank, size)) for rank in range(size)]
    assert all(len(border.states[0][0]) > 1 for plan in plans for border in plan.shard.borders)
    assert all(sum(stop - start for start, stop in plan.lanes(0)) < 2 * 200 / size for plan in plans)
    compare(net, view, size, None, apart=True)


def test_more_ranks_than_sections_leave_some_without_work() -> None:
    view = a_view(random_structure(8, 20), [1, 4], 0)
    plans = [Plan.of(view, "gcn", 2, None, Split(rank, 5)) for rank in range(5)]
    assert any(not plan.lanes(0) for plan in plans)
    compare(Architecture("gcn", 2, FEATURES, HIDDEN, CLASSES), view, 5, None, apart=False)


@given(structures(12), st.integers(2, 4), st.integers(2, 3), st.data())
def test_what_one_rank_sends_is_what_the_other_expects(
    shape: Structure, size: int, layers: int, data: st.DataObject
) -> None:
    """Each border's rows are the same nodes, in the same order, on its two sides."""
    asked = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1)))
    indptr, indices = (array.astype(np.int32) for array in shape.csr)
    scale = np.ones(shape.nodes, dtype=np.float32)
    made = [
        shards.Shard.of((indptr, indices), scale, np.array(asked), [1] * layers, Split(rank, size))
        for rank in range(size)
    ]

    def nodes(shard: shards.Shard, rows: np.ndarray) -> list[int]:
        return shard.ids[shard.order[rows]].tolist()  # type: ignore[index]

    for rank, shard in enumerate(made):
        for border in shard.borders:
            back = next(b for b in made[border.rank].borders if b.rank == rank)
            for mine, theirs in ((border.states, back.states), (border.gradients, back.gradients)):
                for (sent, _), (_, got) in zip(mine, theirs, strict=True):
                    assert nodes(shard, sent) == nodes(made[border.rank], got)
