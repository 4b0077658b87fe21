"""The engine for GPUs, whose kernels Triton interprets on a CPU here: its plans, sums, logits and gradients.

Interpreted kernels take a millisecond a row, so graphs are small, and a row is long that has more than four entries.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnsoup_hpc.engine.frontier import find_frontier
from gnnsoup_hpc.engine.triton import kernels
from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.engine.triton.kernels import Csr, Tuning, Weights, is_symmetric, renumber, sum_rows
from gnnsoup_hpc.engine.triton.unions import HeldGraph
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import CountedDropout, DrawnDropout
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.train.batches import dropout_edge
from tests.arbitrary import (
    SEEDS,
    Structure,
    in_double,
    make_double,
    normal,
    random_batch,
    random_state,
    random_structure,
    structure,
    structures,
)
from tests.engine.test_engines import Way, assert_right, assert_trains, track

ENGINE = Way(TritonEngine(), train=True)
NETS = [
    Architecture(kind, 3, 5, 8, 12 if heads == 1 else 3, heads, norm)
    for kind, heads, norm in [
        ("gcn", 1, "none"),
        ("gcn", 1, "layer"),
        ("sage", 1, "none"),
        ("sage", 1, "layer"),
        ("gat", 1, "layer"),
        ("gat", 2, "none"),
    ]
]
SMALL = random_structure(10, 36)
SEEDS_OF = {"one seed": [3], "three": [0, 5, 9]}  # of SMALL, whose node 9 has no edge
# Each net with a symmetric graph and without, with one seed and with three; each of these with each of those. Slow
# is the half without which each kind has both graphs still, and both numbers of seeds are there.
PLANS = [
    pytest.param(
        net,
        symmetric,
        seeds,
        id=f"{name}-{symmetric}-{net.kind}-{net.heads}-{net.norm}",
        marks=pytest.mark.slow if symmetric != (number + number // 2) % 2 else (),
    )
    for number, net in enumerate(NETS)
    for symmetric in (False, True)
    for name, seeds in [list(SEEDS_OF.items())[(number + symmetric) % 2]]
]
every_net = pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net.kind}-{net.heads}-{net.norm}")
DIRECTED = random_structure(16, 60)


def make_symmetric(shape: Structure) -> Structure:
    return structure(shape.nodes, {*shape.entries, *((column, row) for row, column in shape.entries)})


@pytest.fixture(autouse=True)
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more than four entries are cut."""
    monkeypatch.setattr(kernels, "LONG", 4)


def csr_of(shape: Structure) -> Csr:
    adjacency = shape.adjacency()
    return Csr.of(adjacency.indptr[:-1], adjacency.indptr[1:], adjacency.indices)


@pytest.mark.parametrize("width", [1, 5, 16, 47])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_sums_of_rows_are_a_dense_product(width: int, kind: torch.dtype) -> None:
    """With everything that may be done to them, and nothing; empty rows, and rows that are cut."""
    csr, dense = csr_of(DIRECTED), DIRECTED.dense
    assert csr.pieces is not None
    x, own, gate = (normal(seed, 16, width).to(kind) for seed in (1, 2, 3))
    wide = torch.float64 if kind == torch.float64 else torch.float32
    rows, columns = normal(4, 16).to(wide), normal(5, 16).to(wide)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[kind]
    for tuning in (None, Tuning(2, 4) if kind == torch.float32 else Tuning(8, 16)):
        found = sum_rows(csr, x, torch.full_like(x, torch.nan), tuning=tuning)
        torch.testing.assert_close(found.double(), dense @ x.double(), rtol=tolerance, atol=tolerance)
        found = sum_rows(
            csr,
            x,
            torch.full_like(x, torch.nan),
            row_scale=rows,
            column_scale=columns,
            own=own[:9],
            gate=gate,
            scale=2.0,
            tuning=tuning,
        )
        wanted = rows.double()[:, None] * (dense @ (columns.double()[:, None] * x.double()))
        wanted[:9] += own[:9].double()
        wanted = torch.where(gate > 0, 2.0 * wanted, 0.0)
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=3 * tolerance)


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (1, 1), (7, 5), (300, 47)])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_sums_of_columns(rows: int, width: int, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """By few programs, each with several steps, and of rows that lie apart."""
    monkeypatch.setattr(kernels, "_PROGRAMS", 4)
    monkeypatch.setattr(kernels, "_TILE", 64)
    x, by = normal(1, rows, width + 2).to(kind)[:, :width], normal(2, rows, width).to(kind)
    tolerance = 1e-12 if kind == torch.float64 else 1e-5
    for found, wanted in (
        (kernels.sum_columns(x), x.double().sum(0)),
        (kernels.sum_columns(x, by), (x.double() * by.double()).sum(0)),
    ):
        assert found.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_weights_of_entries_multiply_their_heads_channels(heads: int) -> None:
    csr, x = csr_of(DIRECTED), normal(1, 16, 4 * heads)
    order = torch.randperm(len(csr.indices), generator=torch.Generator().manual_seed(0))
    values = normal(2, len(csr.indices), heads)
    placed = torch.empty_like(values)
    placed[order] = values
    row = torch.arange(16).repeat_interleave(csr.end - csr.start)
    wanted = torch.zeros(16, heads, 4, dtype=torch.float64)
    wanted.index_add_(0, row, values[..., None] * x.view(16, heads, 4)[csr.indices.long()])
    for weights in (Weights(values), Weights(placed, order)):
        found = sum_rows(csr, x, torch.empty_like(x), weights=weights)
        torch.testing.assert_close(found, wanted.flatten(1))


@given(shape=structures(), loops=st.booleans(), seed=SEEDS, data=st.data())
@settings(max_examples=20)
def test_renumbering_keeps_rows_and_leaves_out_what_has_no_place(
    shape: Structure, loops: bool, seed: int, data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(range(shape.nodes)))[: data.draw(st.integers(1, shape.nodes))]
    below = data.draw(st.integers(0, len(rows)))
    place = torch.full((shape.nodes,), -1, dtype=torch.int32)
    place[rows] = torch.arange(len(rows), dtype=torch.int32)
    adjacency = shape.adjacency()
    start, entries = renumber(
        torch.tensor(rows, dtype=torch.int32), adjacency.indptr, adjacency.indices, place, loops, below
    )
    for number, row in enumerate(rows):
        wanted = [int(place[c]) for r, c in shape.entries if r == row and not (loops and c == row)]
        wanted = [each for each in [*wanted, *([number] if loops else [])] if 0 <= each < below]
        assert entries[start[number] : start[number + 1]].tolist() == wanted


@given(shape=structures())
@settings(max_examples=20)
def test_a_structure_that_is_its_own_transpose_is_known(shape: Structure) -> None:
    for each in (shape, make_symmetric(shape)):
        adjacency = each.adjacency()
        symmetric = set(each.entries) == {(column, row) for row, column in each.entries}
        assert is_symmetric(adjacency.indptr, adjacency.indices) == symmetric


@pytest.mark.parametrize(("net", "symmetric", "seeds"), PLANS)
def test_logits_and_gradients_are_the_models(net: Architecture, symmetric: bool, seeds: list[int]) -> None:
    """With and without dropout."""
    shape = make_symmetric(SMALL) if symmetric else SMALL
    batch = random_batch(shape, seeds, net.features, net.classes)
    batch, state = replace(batch, graph=in_double(batch.graph)), random_state(net, kind=torch.float64)
    assert_right(ENGINE, net, batch, state, 1e-9)
    assert_trains(ENGINE, net, batch, state, CountedDropout(0.4, 5), 1e-9)


@pytest.mark.parametrize("net", NETS[:3:2], ids=lambda net: net.kind)
@pytest.mark.parametrize("symmetric", [False, True])
def test_they_are_of_edges_with_weights(net: Architecture, symmetric: bool) -> None:
    """Which differ there and back; with edges dropped, and a first aggregation that is given."""
    shape = random_structure(9, 24)
    shape = make_symmetric(shape) if symmetric else shape
    net = replace(net, layers=3 if symmetric else 2, weighted=True)
    batch = random_batch(shape, [0, 4, 8], net.features, net.classes, 3, weighted=True)
    batch, state = replace(batch, graph=in_double(batch.graph)), random_state(net, kind=torch.float64)
    assert_right(ENGINE, net, batch, state, 1e-9)
    dropped = dropout_edge(batch, 0.2, 1)
    given_ = replace(dropped.graph, hop=normal(2, 9, net.features)) if symmetric else dropped.graph
    assert_trains(ENGINE, net, replace(dropped, graph=given_), state, CountedDropout(0.4, 5), 1e-9)


@every_net
@settings(max_examples=4)
@given(shape=structures(6), seed=SEEDS, data=st.data())
def test_they_are_on_any_graph(net: Architecture, shape: Structure, seed: int, data: st.DataObject) -> None:
    """With int32 or int64 ids, a first aggregation that is given, edges dropped, and one or two layers."""
    net = replace(net, layers=data.draw(st.integers(1, 2), label="layers"))
    seeds = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="seeds"))
    batch = random_batch(shape, seeds, net.features, net.classes, seed)
    adjacency = shape.adjacency(data.draw(st.sampled_from([torch.int32, torch.int64]), label="ids"))
    hop = normal(seed + 1, shape.nodes, net.features) if data.draw(st.booleans(), label="hop is given") else None
    batch = replace(batch, graph=Subgraph(batch.graph.x.double(), make_double(adjacency), hop))
    state = random_state(net, kind=torch.float64)
    assert_right(ENGINE, net, batch, state, 1e-9)
    dropped = dropout_edge(replace(batch, graph=Subgraph(batch.graph.x, adjacency)), 0.5, seed)
    assert_trains(ENGINE, net, dropped, state, CountedDropout(0.5, seed), 1e-9)


@pytest.mark.parametrize(
    "net",
    [pytest.param(net, marks=() if number in (1, 2, 5) else pytest.mark.slow) for number, net in enumerate(NETS)],
    ids=lambda net: f"{net.kind}-{net.heads}-{net.norm}",
)
def test_float32_and_bfloat16_are_near(net: Architecture) -> None:
    batch, state = random_batch(DIRECTED, [0, 5], net.features, net.classes), random_state(net)
    assert_right(ENGINE, net, batch, state, 1e-4)
    wanted, wanted_vjp = ENGINE.engine.vjp(ENGINE.plan(net, batch), state)
    found, vjp = ENGINE.engine.vjp(ENGINE.plan(net, batch, "bfloat16"), state)
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    mine, whole = vjp(torch.ones_like(found)), wanted_vjp(torch.ones_like(found))
    every = [torch.cat([grads[name].flatten() for name in grads]) for grads in (mine, whole)]
    assert (every[0] - every[1]).norm() < 0.2 * every[1].norm()


@pytest.mark.parametrize("net", NETS[:5:2], ids=lambda net: net.kind)
def test_interpolated_logits_are_those_of_the_states_between(net: Architecture) -> None:
    batch = random_batch(DIRECTED, [0, 5], net.features, net.classes)
    batch = replace(batch, graph=in_double(batch.graph))
    ends = random_state(net, 1, torch.float64), random_state(net, 2, torch.float64)
    plan = ENGINE.plan(net, batch)
    between = [(s, {n: s * ends[0][n] + (1.0 - s) * ends[1][n] for n in ends[0]}) for s in (0.0, 0.3, 1.0)]
    for logits, (_, state) in zip(ENGINE.engine.interpolate(plan, ends, between), between, strict=True):
        torch.testing.assert_close(logits, ENGINE.engine.logits(plan, state))


@every_net
def test_a_plan_has_the_rows_of_the_frontier(net: Architecture) -> None:
    batch = random_batch(DIRECTED, [2, 7], net.features, net.classes)
    plan = TritonEngine().plan(net, batch)
    wanted = find_frontier(batch, net.aggregation, net.layers, loops=True, name_nodes=True)
    assert (plan.rows, plan.size, plan.local) == (wanted.rows, 16, (0, 2))
    assert plan.nodes.tolist() == wanted.nodes.tolist()
    assert plan.start.tolist() == wanted.start.tolist()
    assert plan.indices.tolist() == wanted.indices.tolist()
    torch.testing.assert_close(plan.first, wanted.first)


def test_a_second_backward_pass_has_no_states_left() -> None:
    net = NETS[2]
    plan, state = ENGINE.plan(net, random_batch(DIRECTED, [0], 5, 12)), track(random_state(net))
    logits = ENGINE.engine.logits(plan, state)
    logits.sum().backward(retain_graph=True)
    with pytest.raises(AttributeError):
        logits.sum().backward()


@given(shape=structures(), seed=SEEDS, data=st.data())
@settings(max_examples=20)
def test_a_union_that_is_cut_out_is_the_induced_subgraph(shape: Structure, seed: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, shape.nodes), min_size=2, max_size=4)) | {0, shape.nodes})
    every = list(pairwise(cuts))
    runs = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    seeds = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1)))
    batch = random_batch(shape, seeds, 3, 4, seed, weighted=data.draw(st.booleans(), label="weighted"))
    found = HeldGraph.of(batch, torch.device("cpu"), resident=False).cut(runs)
    ids = [node for run in runs for node in range(*run)]
    assert torch.equal(found.graph.x, batch.graph.x[ids])
    whole = torch.full((shape.nodes, shape.nodes), -1.0)
    whole[batch.graph.adjacency.row.long(), batch.graph.adjacency.indices.long()] = batch.graph.adjacency.values
    adjacency = found.graph.adjacency
    dense = torch.full((len(ids), len(ids)), -1.0)
    for row in range(len(ids)):
        mine = slice(adjacency.indptr[row], adjacency.indptr[row + 1])
        dense[row, adjacency.indices[mine].long()] = adjacency.values[mine]
    assert torch.equal(dense, whole[ids][:, ids])
    assert [ids[seed] for seed in found.seeds.tolist()] == [node for node in ids if node in seeds]
    labels = dict(zip(seeds, batch.targets.tolist(), strict=True))
    assert found.targets.tolist() == [labels[ids[seed]] for seed in found.seeds.tolist()]


def test_it_computes_where_a_gpu_is() -> None:
    engine, net = TritonEngine(), NETS[0]
    assert engine.supports(net, torch.device("cuda"))
    assert not engine.supports(net, torch.device("cpu"))
    assert isinstance(engine.make_dropout(0.5, torch.device("cpu"), 0), CountedDropout)
    plan, state = engine.plan(net, random_batch(DIRECTED, [0], 5, 12)), random_state(net)
    drawn = DrawnDropout(0.5, torch.Generator())
    with pytest.raises(TypeError, match="counted"):
        engine.logits(plan, state, mode="train", dropout=drawn)


def test_batches_on_the_host_and_there_give_the_same_plan() -> None:
    net = NETS[3]
    batch = random_batch(DIRECTED, [0, 5], net.features, net.classes)
    assert isinstance(batch, Batch)
    one = TritonEngine().plan(net, batch, device=torch.device("cpu"))
    two = TritonEngine().plan(net, batch)
    state = random_state(net)
    assert torch.equal(TritonEngine().logits(one, state), TritonEngine().logits(two, state))
