"""Passes that ranks make together, over a world of threads, against one rank's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gnnsoup_hpc import engine
from gnnsoup_hpc.engine import Planned
from gnnsoup_hpc.engine.sharding import NodeShare
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.soup.team import exchange_over
from gnnsoup_hpc.types import Dense, State
from tests.arbitrary import Structure, normal
from tests.world import World, on_all_ranks

HIDDEN, CLASSES, FEATURES = 6, 3, 5


def a_view(shape: Structure, asked: list[int], seed: int, features: int = FEATURES) -> Batch:
    graph = Subgraph(normal(seed, shape.nodes, features).float(), shape.adjacency())
    return Batch(graph, torch.tensor(asked), torch.zeros(len(asked), dtype=torch.int64))


def a_state(net: Architecture) -> State:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in net.shapes().items()}


def scored(net: Architecture, plan: Planned, world: World | None) -> Dense:
    """One rank's class scores, by a pass without a way back."""
    swap = None if world is None else exchange_over(world)  # type: ignore[arg-type]
    return engine.begin(net, a_state(net), plan, swap, keep=False).forward()


def _passed(net: Architecture, plan: Planned, grad: Dense, world: World | None) -> tuple:
    """(asked nodes, class scores, gradients) of one rank."""
    run = engine.begin(net, a_state(net), plan, None if world is None else exchange_over(world))  # type: ignore[arg-type]
    scores = run.forward().copy()
    return plan.shard.asked, scores, run.backward(grad[slice(*plan.shard.asked)].copy())


def compare(net: Architecture, planned: Callable[[NodeShare | None], Planned], size: int, tolerance: float) -> None:
    """Ranks together against one alone, by the plans of each: rows bit for bit, sums to rounding."""
    whole = planned(None)
    count = len(whole.labels)
    grad = normal(7, count, net.classes).float().numpy()
    _, wanted, gradients = _passed(net, whole, grad, None)

    def rank(world: World) -> tuple:
        plan = planned(NodeShare(world.rank, size))
        found = _passed(net, plan, grad, world)
        np.testing.assert_array_equal(scored(net, plan, world), found[1])
        return found

    found = on_all_ranks(size, rank)
    assert [node for asked, _, _ in found for node in range(*asked)] == list(range(count))
    np.testing.assert_array_equal(np.concatenate([scores for _, scores, _ in found]), wanted)
    for name, gradient in gradients.items():
        total = sum(mine[name] for _, _, mine in found)
        close = {"rtol": tolerance, "atol": tolerance * abs(gradient).max()}
        np.testing.assert_allclose(total, gradient, **close, err_msg=name)
