"""Ranks that compute on one batch together, over threads, against one rank: rows bit for bit, sums to rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gnnsoup_hpc.engine import Division
from gnnsoup_hpc.engine.compiled.engine import CompiledEngine
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan
from gnnsoup_hpc.engine.frontier import find_frontier
from gnnsoup_hpc.engine.sharding import Shard
from gnnsoup_hpc.graph.subgraph import MEAN, NORMALISED_SUM, Aggregation, Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL
from gnnsoup_hpc.types import Precision
from gnnsoup_hpc.utils.out_of_core import BufferPool
from tests.arbitrary import (
    SEEDS,
    Structure,
    make_sparse,
    normal,
    random_batch,
    random_state,
    random_structure,
    structures,
)
from tests.comms import CheckingComm, ThreadComm, ThreadWorld, run_ranks

pytestmark = pytest.mark.usefixtures("sections_of_three_rows")
ENGINE = CompiledEngine()
FEATURES, HIDDEN, CLASSES = 5, 6, 3
KINDS = [("gcn", 1), ("sage", 1), ("gat", 1), ("gat", 2), ("gat", 3)]
MODELS = [Architecture(kind, 3, FEATURES, HIDDEN, CLASSES, heads, "layer") for kind, heads in KINDS]
MODELS += [replace(net, weighted=True) for net in MODELS if net.kind != "gat"]
every_model = pytest.mark.parametrize(
    "net", MODELS, ids=lambda net: f"{net.kind}-{net.heads}{'-weighted' if net.weighted else ''}"
)
Computed = tuple[tuple[int, int], Tensor, dict[str, Tensor]]  # local seeds, their logits both ways, gradients


def compute(net: Architecture, plan: CompiledPlan, grad: Tensor) -> Computed:
    """What one rank computes; without gradients, logits are the same but for the order of sums."""
    state = random_state(net)
    logits, vjp = ENGINE.vjp(plan, state)
    found = dict(vjp(grad[slice(*plan.local)].contiguous()))
    with torch.no_grad():
        evaluated = ENGINE.logits(plan, state)
    (between,) = ENGINE.interpolate(plan, (state, random_state(net, 2)), [(1.0, state)])
    if plan.precision == "float32":
        torch.testing.assert_close(between, logits)
        torch.testing.assert_close(evaluated, logits)
    return plan.local, torch.stack([logits, evaluated]), found


def compare(
    net: Architecture,
    batch: Batch,
    size: int,
    apart: bool = False,
    precision: Precision = "float32",
    row_work: list[int] | None = None,
) -> list[int]:
    """Ranks together against one alone; how many seeds each has.

    apart: features are read by node, and the batch has none. row_work: in place of what the engine takes it to be.
    """
    x = batch.graph.x.numpy()
    bare = replace(batch, graph=Subgraph(torch.empty(len(x), 0), batch.graph.adjacency))
    grad = normal(7, len(batch.seeds), net.classes, kind=torch.float32)

    def make_plan(batch: Batch, division: Division | None) -> CompiledPlan:
        if row_work is None:
            return ENGINE.plan(net, batch, division=division, precision=precision)
        comm = division.comm if division else SERIAL
        how: dict[str, Any] = {"loops": True, "division": division, "row_work": row_work, "keep_sparse": True}
        found = find_frontier(batch, net.aggregation, net.layers, **how)
        return CompiledPlan(**vars(found), net=net, workspace=BufferPool(), precision=precision, comm=comm)

    def rank(comm: ThreadComm) -> Computed:
        division = Division(CheckingComm(comm), (lambda ids: x[ids]) if apart else None)
        plan = make_plan(bare if apart else batch, division)
        local, logits, found = compute(net, plan, grad)
        summed = {name: comm.sum_in_order(found[name].numpy()) for name in net.shapes()}
        return local, logits, {name: torch.from_numpy(total) for name, total in summed.items()}

    _, wanted, gradients = compute(net, make_plan(batch, None), grad)
    found = run_ranks(size, rank)
    assert [seed for local, _, _ in found for seed in range(*local)] == list(range(len(batch.seeds)))
    assert torch.equal(torch.cat([logits for _, logits, _ in found], 1), wanted)
    for name, gradient in gradients.items():
        assert all(torch.equal(each[name], found[0][2][name]) for _, _, each in found)
        atol = 1e-11 * float(gradient.abs().max())
        torch.testing.assert_close(found[0][2][name], gradient, rtol=1e-11, atol=atol, msg=name)
    return [stop - start for (start, stop), _, _ in found]


def plan_all(net: Architecture, batch: Batch, size: int) -> list[CompiledPlan]:
    """Each rank's plan, which takes no message."""
    world = ThreadWorld(size)
    return [ENGINE.plan(net, batch, division=Division(ThreadComm(world, rank, size))) for rank in range(size)]


@every_model
@given(shape=structures(12), size=st.integers(1, 4), seed=SEEDS, data=st.data())
def test_ranks_together_compute_what_one_does(
    net: Architecture, shape: Structure, size: int, seed: int, data: st.DataObject
) -> None:
    seeds = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="seeds"))
    layers, norm = data.draw(st.integers(1, 4), label="layers"), data.draw(st.sampled_from(["none", "layer"]))
    classes = data.draw(st.sampled_from([CLASSES, 2 * HIDDEN]), label="classes")  # few: values are summed up in GAT
    net = replace(net, layers=layers, norm=norm, classes=classes)
    batch = random_batch(shape, seeds, FEATURES, classes, seed, net.weighted)
    sparse = data.draw(st.booleans(), label="features are sparse")
    rising = list(range(1, layers + 1 + (net.kind == "gat" or sparse)))
    work = data.draw(st.sampled_from([None, [1] * len(rising), rising]), label="work of a row in each layer")
    apart = not sparse and data.draw(st.booleans(), label="features are read by node")
    compare(net, make_sparse(batch) if sparse else batch, size, apart, row_work=work)


@every_model
@pytest.mark.parametrize("features", [FEATURES, HIDDEN + 5])  # GAT's first layer sums up features, or values
@pytest.mark.parametrize("size", [2, 3, 5])
def test_larger_graphs_have_halos_of_many_rows(net: Architecture, features: int, size: int) -> None:
    net = replace(net, features=features)
    batch = random_batch(random_structure(200, 900), list(range(0, 200, 3)), features, CLASSES, 3, net.weighted)
    for plan in plan_all(net, batch, size):
        if net.kind == "gat":
            assert all(len(entries) > 1 for _, *both in plan.crossing[0] for entries in both)
        assert all(len(sent) > 1 for _, sent, _ in plan.shard.states[0])
        assert sum(stop - start for start, stop in plan.shard.chunks(0)) < 2 * 200 / size
    compare(net, batch, size, apart=True)
    compare(net, make_sparse(batch), size)


@every_model
def test_more_ranks_than_sections_leave_some_without_rows(net: Architecture) -> None:
    net = replace(net, layers=2)
    batch = random_batch(random_structure(8, 20), [1, 4], FEATURES, CLASSES, weighted=net.weighted)
    assert any(not plan.shard.chunks(0) for plan in plan_all(net, batch, 5))
    assert 0 in compare(net, batch, 5)


@every_model
def test_they_do_in_bfloat16(net: Architecture) -> None:
    batch = random_batch(random_structure(60, 300), list(range(60)), FEATURES, CLASSES, 1, net.weighted)
    compare(net, batch, 3, precision="bfloat16")


@given(structures(12), st.integers(2, 4), st.integers(2, 3), st.data())
def test_what_one_rank_sends_is_what_the_other_expects(
    shape: Structure, size: int, layers: int, data: st.DataObject
) -> None:
    """Each halo's rows are the same nodes, in the same order, on its two sides."""
    seeds = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1)))
    indptr, indices = (array.astype(np.int32) for array in shape.csr)
    scale, work = np.ones(shape.nodes, dtype=np.float32), [1] * layers
    made = [Shard.of((indptr, indices, scale[:0]), scale, np.array(seeds), work, rank, size) for rank in range(size)]

    def nodes(shard: Shard, rows: np.ndarray) -> list[int]:
        return shard.ids[shard.order[rows]].tolist()  # type: ignore[index]

    for rank, shard in enumerate(made):
        for name in ("states", "gradients"):
            assert len(getattr(shard, name)) == layers - 1
            for layer, moves in enumerate(getattr(shard, name)):
                assert [other for other, _, _ in moves] == [other for other in range(size) if other != rank]
                for other, sent, _ in moves:
                    (got,) = (got for back, _, got in getattr(made[other], name)[layer] if back == rank)
                    assert nodes(shard, sent) == nodes(made[other], got)


@given(structures(12), st.integers(2, 4), st.integers(1, 3), st.data())
def test_what_one_rank_sends_of_entries_is_what_the_other_expects(
    shape: Structure, size: int, layers: int, data: st.DataObject
) -> None:
    """Entries between two ranks' nodes are the same pairs of nodes, in the same order, on both sides."""
    seeds = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1)))
    batch = random_batch(shape, seeds, FEATURES, CLASSES)
    batch.graph.x[:, 0] = torch.arange(shape.nodes)
    plans = plan_all(Architecture("gat", layers, FEATURES, HIDDEN, CLASSES), batch, size)

    def pairs(plan: CompiledPlan, entries: np.ndarray) -> list[tuple[float, float]]:
        rows, ids = np.searchsorted(plan.start, entries, "right") - 1, plan.first[:, 0].numpy()
        return list(zip(ids[rows].tolist(), ids[plan.indices[entries]].tolist(), strict=True))

    for rank, plan in enumerate(plans):
        for layer in range(layers):
            for other, sent, _ in plan.crossing[layer]:
                got = next(got for back, _, got in plans[other].crossing[layer] if back == rank)
                assert pairs(plan, sent) == pairs(plans[other], got)


@given(structures(12), st.sampled_from([MEAN, NORMALISED_SUM, None]), st.integers(2, 4), st.integers(1, 4), SEEDS)
def test_the_work_of_rows_moves_nodes_between_ranks_and_changes_no_sum(
    shape: Structure, aggregation: Aggregation | None, size: int, depth: int, seed: int
) -> None:
    """Each seed is one rank's, with the first aggregation, or the features, that one rank alone has of it."""
    batch = random_batch(shape, list(range(shape.nodes)), FEATURES, CLASSES, seed)
    alone = find_frontier(batch, aggregation, depth)
    world, columns = ThreadWorld(size), depth + (aggregation is None)
    divisions = [Division(ThreadComm(world, rank, size)) for rank in range(size)]
    for work in ([1] * columns, list(range(1, columns + 1))):
        found = [find_frontier(batch, aggregation, depth, division=each, row_work=work) for each in divisions]
        assert [node for each in found for node in range(*each.local)] == list(range(shape.nodes))
        assert torch.equal(torch.cat([each.first[slice(*each.shard.own)] for each in found]), alone.first)
