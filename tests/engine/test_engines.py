"""One table of models and batches over all engines: logits and gradients are those of the model itself in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gnnsoup_hpc.engine import ENGINES, Division, Engine, Plan, TorchEngine, choose_engine
from gnnsoup_hpc.engine.compiled import gat, passes
from gnnsoup_hpc.engine.compiled.engine import CompiledEngine
from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import CountedDropout, DrawnDropout, Dropout, Model
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL
from gnnsoup_hpc.train.batches import dropout_edge
from gnnsoup_hpc.types import Grouping, Mode, Precision, State
from gnnsoup_hpc.utils.out_of_core import BufferPool
from tests.arbitrary import (
    SEEDS,
    Structure,
    in_double,
    make_double,
    make_sparse,
    normal,
    random_batch,
    random_state,
    random_structure,
    structures,
    weigh,
)

CPU = torch.device("cpu")
KINDS = [("gcn", 1), ("sage", 1), ("gat", 1), ("gat", 2), ("gat", 4)]
SHAPES = {"narrowing": (10, 8, 3), "widening": (5, 8, 12)}  # features, hidden, classes
NETS = [  # of each kind every number of layers with every norm, every shape with every norm and number of layers
    Architecture(kind, layers, *shape, heads, norm)
    for (kind, heads), layers, (turn, norm) in itertools.product(KINDS, [1, 2, 3, 4], enumerate(["none", "layer"]))
    for shape in [list(SHAPES.values())[(layers + turn + 1) % 2]]
]
NETS += [  # of graphs whose edges have weights
    Architecture(kind, layers, features, hidden, classes, norm=norm, weighted=True)
    for (layers, norm), (features, hidden, classes) in itertools.product(
        [(1, "none"), (2, "none"), (3, "layer")], SHAPES.values()
    )
    for kind in ("gcn", "sage")
]
THREE_LAYERS = [net for net in NETS if net.layers == 3 and net.norm == "layer" and net.features == 5]
GRAPH = random_structure(60, 150)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def label(net: Architecture) -> str:
    sizes = f"{net.heads}heads-{net.layers}layers-{net.norm}-{net.features}to{net.classes}"
    return f"{net.kind}-{sizes}{'-weighted' if net.weighted else ''}"


@dataclass(frozen=True)
class Way:
    """An engine, and whether its plan computes every row of every layer."""

    engine: Engine
    train: bool = False

    def plan(self, net: Model, batch: Batch, precision: Precision = "float32") -> Plan:
        return self.engine.plan(net, batch, train=self.train, precision=precision)


COMPILED, FRONTIER, ALL_ROWS = Way(CompiledEngine()), Way(TorchEngine()), Way(TorchEngine(), train=True)
WAYS = {"compiled": COMPILED, "torch": FRONTIER, "torch, all rows": ALL_ROWS}
TRAINING = {"compiled": Way(CompiledEngine(), train=True), "torch": ALL_ROWS}
TRAINED = {torch.float64: 1e-9, torch.float32: 1e-5}
every_net = pytest.mark.parametrize("net", NETS, ids=label)
every_kind = pytest.mark.parametrize("net", THREE_LAYERS, ids=label)
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
every_way_of_training = pytest.mark.parametrize("way", TRAINING.values(), ids=TRAINING)
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def batch_of(net: Architecture, kind: torch.dtype = torch.float32, shape: Structure = GRAPH) -> Batch:
    """A directed graph with loops and an isolated node, of which some nodes are seeds, that one among them."""
    seeds = [*range(0, shape.nodes - 1, 7), shape.nodes - 1]
    batch = random_batch(shape, seeds, net.features, net.classes, seed=net.layers, weighted=net.weighted)
    return replace(batch, graph=in_double(batch.graph)) if kind == torch.float64 else batch


def track(state: State) -> State:
    """The same, whose gradients autograd keeps."""
    return {name: tensor.clone().requires_grad_() for name, tensor in state.items()}


def compute_oracle(net: Architecture, state: State, batch: Batch) -> tuple[Tensor, State]:
    """Logits of the seeds, by the model on the whole subgraph in float64; its parameters, to be differentiated."""
    leaves = track({name: tensor.double() for name, tensor in state.items()})
    return net.forward(leaves, in_double(batch.graph))[batch.seeds], leaves


def assert_right(way: Way, net: Architecture, batch: Batch, state: State, tolerance: float) -> None:
    """Logits, gradients by `vjp` and by autograd, and logits without gradients are the oracle's."""
    close: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
    plan = way.plan(net, batch)
    expected, wanted = compute_oracle(net, state, batch)
    loss = functional.cross_entropy(expected, batch.targets)
    (into,) = torch.autograd.grad(loss, expected, retain_graph=True)
    loss.backward()
    assert torch.equal(plan.targets, batch.targets)
    assert (plan.size, plan.local) == (batch.size, (0, len(batch.seeds)))

    with torch.no_grad():
        logits = way.engine.logits(plan, state)
    torch.testing.assert_close(logits.double(), expected.detach(), **close)

    pulled, vjp = way.engine.vjp(plan, state)
    torch.testing.assert_close(pulled.double(), expected.detach(), **close)
    found = vjp(into.to(pulled.dtype))
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    own = track(state)
    tracked = way.engine.logits(plan, own, mode="fit")
    torch.testing.assert_close(tracked.detach(), pulled, rtol=0, atol=0)
    functional.cross_entropy(tracked, batch.targets).backward()
    assert found.keys() == net.shapes().keys()
    for name, leaf in wanted.items():
        assert leaf.grad is not None
        torch.testing.assert_close(found[name], leaf.grad, **close, msg=lambda text, name=name: f"{name}: {text}")
        assert own[name].grad is not None, name
        torch.testing.assert_close(own[name].grad.double(), leaf.grad, **close, msg=lambda t, name=name: f"{name}: {t}")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows, the last one smaller."""
    for module in (passes, gat):
        monkeypatch.setattr(module, "ROWS", 7)


@every_net
@every_way
@pytest.mark.parametrize("kind", TOLERANCE, ids=str)
@pytest.mark.usefixtures("small_blocks")
def test_logits_and_gradients_are_the_models(net: Architecture, way: Way, kind: torch.dtype) -> None:
    assert_right(way, net, batch_of(net, kind), random_state(net, kind=kind), TOLERANCE[kind])


@every_kind
@every_way
@settings(max_examples=15)
@given(shape=structures(), seed=SEEDS, data=st.data())
def test_they_are_on_any_graph(net: Architecture, way: Way, shape: Structure, seed: int, data: st.DataObject) -> None:
    """With int32 or int64 ids, a first aggregation that is given, and memory that is used again."""
    net = replace(net, layers=data.draw(st.integers(1, 3), label="layers"))
    seeds = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="seeds"))
    batch = random_batch(shape, seeds, net.features, net.classes, seed)
    adjacency = shape.adjacency(data.draw(st.sampled_from([torch.int32, torch.int64]), label="ids"))
    adjacency = weigh(adjacency, seed) if net.weighted else adjacency
    hop = normal(seed + 1, shape.nodes, net.features) if data.draw(st.booleans(), label="hop is given") else None
    pool = data.draw(st.sampled_from([None, BufferPool(3)]), label="pool")
    batch = replace(batch, graph=Subgraph(batch.graph.x.double(), make_double(adjacency), hop, pool))
    if hop is None and data.draw(st.booleans(), label="features are sparse"):
        batch = make_sparse(batch)
    assert_right(way, net, batch, random_state(net, kind=torch.float64), 1e-9)


@every_net
@pytest.mark.parametrize("kind", TOLERANCE, ids=str)
@pytest.mark.usefixtures("small_blocks")
def test_sparse_features_are_multiplied_as_such(net: Architecture, kind: torch.dtype) -> None:
    """Evaluated, differentiated, and trained on with masks; the plan holds nothing of their dense size."""
    batch, state = make_sparse(batch_of(net, kind)), random_state(net, kind=kind)
    assert_right(COMPILED, net, batch, state, TOLERANCE[kind])
    assert_trains(TRAINING["compiled"], net, batch, state, CountedDropout(0.4, 5), 3 * TRAINED[kind])
    bare = make_sparse(batch_of(net, kind))
    assert COMPILED.plan(net, bare).features.nnz < 0.4 * bare.size * net.features  # type: ignore[attr-defined]
    assert "x" not in vars(bare.graph)  # which would be made at the first look


@every_kind
@every_way
@pytest.mark.parametrize("edges", [0, 150])
def test_one_seed(net: Architecture, way: Way, edges: int) -> None:
    """Without edges each node has itself alone."""
    shape = random_structure(60, edges) if edges else Structure(60, ())
    batch = random_batch(shape, [17], net.features, net.classes, weighted=net.weighted)
    batch = replace(batch, graph=in_double(batch.graph))
    assert_right(way, net, batch, random_state(net, kind=torch.float64), 1e-9)


@pytest.mark.parametrize(
    ("kind", "unit"), [("gcn", 1.0), ("gcn", 1e-40), ("sage", 1.0), ("sage", 1e-40), ("sage", 1e30)]
)
@every_way
def test_weights_of_any_size_are_normalised(way: Way, kind: str, unit: float) -> None:
    """Those of a hub of 3,000 in-neighbours, and of a node whose weights are all zero, its self-loop's too."""
    hub = (*((0, node) for node in range(1, 3001)), (1, 1), (1, 2), (2, 0), (3, 3))
    plain, net = Structure(3001, hub).adjacency(), Architecture(kind, 2, 5, 8, 3, weighted=True)
    weight = unit * normal(0, len(hub)).abs()
    weight[[3000, 3001]] = 0.0
    structure = Adjacency(plain.indptr, plain.indices, weight=weight.float())
    batch = random_batch(Structure(3001, ()), [0, 1, 2, 3, 3000], 5, 3)
    assert_right(way, net, replace(batch, graph=Subgraph(batch.graph.x, structure)), random_state(net), 1e-4)


@every_kind
@pytest.mark.parametrize("way", [COMPILED, FRONTIER], ids=["compiled", "torch"])
def test_nodes_out_of_reach_have_no_part(net: Architecture, way: Way) -> None:
    """Node 8 of the path 0 -> 1 -> ... -> 9 depends on nodes 8 to 5 with three layers."""
    if net.weighted and way is FRONTIER:
        pytest.skip("it computes all rows of a graph whose edges have weights")
    path = Structure(10, tuple((node + 1, node) for node in range(9)))
    batch, state = random_batch(path, [8], net.features, net.classes, 0, net.weighted), random_state(net)
    broken = batch.graph.x.clone()
    broken[[0, 1, 2, 3, 4, 9]] = torch.nan
    other = replace(batch, graph=replace(batch.graph, features=broken))
    (logits, pull), (same, pull_same) = (way.engine.vjp(way.plan(net, each), state) for each in (batch, other))
    torch.testing.assert_close(same, logits, rtol=0, atol=0)
    assert logits.isfinite().all()
    grad = torch.ones_like(logits)
    torch.testing.assert_close(dict(pull_same(grad)), dict(pull(grad)), rtol=0, atol=0)


@every_kind
@every_way
def test_interpolated_logits_are_those_of_the_states_between(net: Architecture, way: Way) -> None:
    batch = batch_of(net, torch.float64)
    plan, ends = way.plan(net, batch), (random_state(net, 1, torch.float64), random_state(net, 2, torch.float64))
    between = [
        (share, {name: share * ends[0][name] + (1.0 - share) * ends[1][name] for name in ends[0]})
        for share in (0.0, 0.3, 1.0)
    ]
    found = list(way.engine.interpolate(plan, ends, iter(between)))
    assert len(found) == len(between)
    for logits, (_, state) in zip(found, between, strict=True):
        torch.testing.assert_close(logits, way.engine.logits(plan, state))
    assert list(way.engine.interpolate(plan, ends, [])) == []


@every_kind
@every_way
def test_large_parameters_do_not_overflow(net: Architecture, way: Way) -> None:
    """Attention is told from scores less their row's largest."""
    net = replace(net, norm="none", layers=2)
    batch, state = batch_of(net), {name: 50 * tensor for name, tensor in random_state(net).items()}
    expected, _ = compute_oracle(net, state, batch)
    found = way.engine.logits(way.plan(net, batch), state).double()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-3)


@every_kind
@every_way_of_training
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_is_for_training_alone(net: Architecture, way: Way, rate: float) -> None:
    batch, state = batch_of(net), random_state(net)
    plan = way.plan(net, batch)

    def drop(seed: int = 3) -> Dropout:
        return way.engine.make_dropout(rate, CPU, seed).at(1, 0)

    plain = way.engine.logits(plan, state)
    for mode in ("fit", "evaluate"):
        assert torch.equal(way.engine.logits(plan, state, mode=mode, dropout=drop()), plain)
    dropped = way.engine.logits(plan, state, mode="train", dropout=drop())
    assert torch.equal(way.engine.logits(plan, state, mode="train", dropout=drop()), dropped)
    assert torch.equal(dropped, plain) == (rate == 0.0)
    assert torch.equal(way.engine.logits(plan, state, mode="train", dropout=drop(4)), dropped) == (rate == 0.0)


def assert_trains(way: Way, net: Architecture, batch: Batch, state: State, dropout: Dropout, tolerance: float) -> None:
    """Logits and gradients of a step are those of the model on the whole subgraph in float64 with the same masks.

    Differences are measured by the largest gradient, for those of attention come from terms that cancel.
    """
    ours, leaves = track(state), track({name: tensor.double() for name, tensor in state.items()})
    wanted = net.forward(leaves, in_double(batch.graph), dropout)[batch.seeds]
    plan = way.plan(net, batch)
    found = way.engine.logits(plan, ours, mode="train", dropout=dropout)
    torch.testing.assert_close(found.detach().double(), wanted.detach(), rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        again = way.engine.logits(plan, state, mode="train", dropout=dropout)
    torch.testing.assert_close(again.double(), wanted.detach(), rtol=tolerance, atol=tolerance)
    for logits in (found, wanted):
        functional.cross_entropy(logits, batch.targets).backward()
    expected = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, leaf in ours.items():
        assert leaf.grad is not None
        error = float((leaf.grad.double() - expected[name]).abs().max())
        assert error <= tolerance * largest, f"{name}: {error:.2g} of {largest:.2g}"


@every_net
@every_way_of_training
@pytest.mark.parametrize("kind", TRAINED, ids=str)
@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.usefixtures("small_blocks")
def test_training_has_the_logits_and_gradients_of_the_same_masks(
    net: Architecture, way: Way, kind: torch.dtype, rate: float
) -> None:
    tolerance = 3 * TRAINED[kind] if net.kind == "gat" else TRAINED[kind]  # where torch's own are 1.3e-5 in float32
    assert_trains(way, net, batch_of(net, kind), random_state(net, kind=kind), CountedDropout(rate, 5), tolerance)


@every_kind
@every_way_of_training
@settings(max_examples=15)
@given(shape=structures(), seed=SEEDS, data=st.data())
def test_it_has_on_any_graph(net: Architecture, way: Way, shape: Structure, seed: int, data: st.DataObject) -> None:
    """With some edges dropped."""
    seeds = sorted(data.draw(st.sets(st.integers(0, shape.nodes - 1), min_size=1), label="seeds"))
    batch = random_batch(shape, seeds, net.features, net.classes, seed, net.weighted)
    batch = dropout_edge(batch, data.draw(st.sampled_from([0.0, 0.5]), label="dropped edges"), seed)
    batch = replace(batch, graph=in_double(batch.graph))
    batch = make_sparse(batch) if data.draw(st.booleans(), label="features are sparse") else batch
    dropout = CountedDropout(data.draw(st.sampled_from([0.1, 0.5, 0.9]), label="rate"), seed)
    assert_trains(way, net, batch, random_state(net, kind=torch.float64), dropout, 1e-9)


@every_net
def test_the_torch_engine_draws_masks_for_all_nodes_in_the_order_of_layers(net: Architecture) -> None:
    batch, ours, theirs = batch_of(net), track(random_state(net)), track(random_state(net))
    plan, engine = ALL_ROWS.plan(net, batch), ALL_ROWS.engine
    found = engine.logits(plan, ours, mode="train", dropout=engine.make_dropout(0.4, CPU, 5))
    drawn = DrawnDropout(0.4, torch.Generator().manual_seed(5))
    wanted = net.forward(theirs, batch.graph, drawn)[batch.seeds]
    assert torch.equal(found, wanted)
    for logits in (found, wanted):
        functional.cross_entropy(logits, batch.targets).backward()
    for name, leaf in ours.items():
        torch.testing.assert_close(leaf.grad, theirs[name].grad, rtol=0, atol=0, msg=name)


@every_kind
def test_bfloat16_rounds_the_factors_of_products_and_nothing_more(net: Architecture) -> None:
    net = replace(net, norm="none", classes=3)
    batch, rounded, exact = batch_of(net), track(random_state(net)), track(random_state(net))
    found = COMPILED.engine.logits(COMPILED.plan(net, batch, "bfloat16"), rounded)
    wanted = COMPILED.engine.logits(COMPILED.plan(net, batch), exact)
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02 * float(wanted.detach().abs().max()))
    for logits in (found, wanted):
        functional.cross_entropy(logits, batch.targets).backward()
    pairs = {name: (leaf.grad, exact[name].grad) for name, leaf in rounded.items()}
    least = 0.001 * max(float(whole.norm()) for _, whole in pairs.values())  # of gradients that nearly vanish
    for name, (mine, whole) in pairs.items():
        assert (mine - whole).norm() < max(0.1 * whole.norm(), least), name  # a rounded state may change sides of ReLU


@every_kind
def test_results_do_not_depend_on_the_number_of_threads(net: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnnsoup_hpc.engine.sharding.SECTION_ROWS", 30)  # many sections
    shape = random_structure(400, 2000)
    batch, state = batch_of(net, shape=shape), random_state(net)
    plan = COMPILED.engine.plan(net, batch)
    assert min(len(plan.shard.sections_of(layer)) for layer in range(net.layers)) > 3  # type: ignore[attr-defined]
    found, threads = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        logits, vjp = COMPILED.engine.vjp(plan, state)
        found.append([logits, *vjp(torch.ones_like(logits)).values()])
    torch.set_num_threads(threads)
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@every_kind
@every_engine
def test_plans_in_turn_may_share_a_workspace(net: Architecture, engine: Engine) -> None:
    """What was computed before is not written over."""
    few = engine.name == "triton"  # whose interpreted kernels take long; test_triton.py has weights of edges
    if few and (net.weighted or (net.kind == "gat" and net.heads != 2)):
        pytest.skip("one of each kind shows it")
    workspace, state = BufferPool(), random_state(net)
    sizes = (8, 4, 12) if few else (24, 12, 36)
    batches = [batch_of(net, shape=random_structure(nodes, 3 * nodes)) for nodes in sizes]
    shared = [engine.vjp(engine.plan(net, batch, workspace=workspace), state) for batch in batches]
    found = [(logits, pull(torch.ones_like(logits))) for logits, pull in shared[-1:]]
    for batch, (logits, _) in zip(batches, shared, strict=True):
        alone, pull = engine.vjp(engine.plan(net, batch), state)
        assert torch.equal(logits, alone)
    torch.testing.assert_close(dict(found[0][1]), dict(pull(torch.ones_like(alone))), rtol=0, atol=0)


@every_engine
@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_a_feature_that_is_not_finite_stays_where_it_belongs(engine: Engine, kind: str) -> None:
    """Node 1 has a self-loop; its infinity reaches itself and node 2, and node 0 has no part in it."""
    shape = Structure(3, ((1, 1), (2, 1)))
    x = torch.tensor([[1.0], [torch.inf], [1.0]])
    net = Architecture(kind, 1, 1, 4, 1)
    state = {name: torch.ones(size) for name, size in net.shapes().items()}
    batch = Batch(Subgraph(x, shape.adjacency()), torch.arange(3), torch.zeros(3, dtype=torch.int64))
    logits = engine.logits(engine.plan(net, batch), state)
    assert logits[:, 0].isinf().tolist() == [False, True, True]


def test_hidden_states_are_those_of_the_layers() -> None:
    net = Architecture("gat", 3, 5, 8, 3, heads=2, norm="layer")
    batch, state = batch_of(net), random_state(net)
    plan = TorchEngine().plan(net, batch, train=True)
    first = net.layer(state, 0, batch.graph.x, batch.graph)
    second = net.layer(state, 1, first, batch.graph)
    found = list(TorchEngine().hidden_states(plan, state))
    assert [torch.equal(each, wanted[batch.seeds]) for each, wanted in zip(found, (first, second), strict=True)] == [
        True,
        True,
    ]


def test_the_torch_engines_plan_has_only_the_rows_that_are_needed() -> None:
    """On the path 0 -> 1 -> ... -> 9, node 9 with three layers needs nodes 9, 8, 7 and the features of 6."""
    path = Structure(10, tuple((node + 1, node) for node in range(9)))
    for kind, columns in (("gcn", [3, 3, 2]), ("sage", [3, 3, 2]), ("gat", [4, 3, 2])):
        net = Architecture(kind, 3, 1, 4, 2)
        plan = TorchEngine().plan(net, random_batch(path, [9], 1, 2))
        assert [graph.adjacency.nodes for graph in plan.graphs] == [3, 2, 1]
        assert [graph.adjacency.columns for graph in plan.graphs] == columns


class SumOfNeighbours:
    """A model that no engine knows: what in-neighbours have, times a matrix."""

    kind, features, outputs, hops, symmetries = "sum", 5, 3, 1, None
    weighted, edge_features = False, 0
    integers, statistics, parameters = frozenset[str](), frozenset[str](), frozenset(["weight"])
    ties, takes = MappingProxyType[str, str]({}), "edge_index"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (5, 3)}

    def groups(self, by: Grouping) -> dict[str, tuple[str, ...]]:
        return {"model": ("weight",)}

    def init_state(self, seed: int) -> State:
        return {"weight": normal(seed, 5, 3, kind=torch.float32)}

    def forward(
        self, state: Mapping[str, Tensor], graph: Subgraph, dropout: Dropout | None = None, mode: Mode = "evaluate"
    ) -> Tensor:
        x = dropout(graph.x, 0) if dropout else graph.x
        adjacency = graph.adjacency
        out = torch.zeros(adjacency.nodes, 5, dtype=x.dtype)
        return out.index_add(0, adjacency.row.long(), x[adjacency.indices.long()]) @ state["weight"]

    def recompute(self, state: Mapping[str, Tensor], graphs: Iterator[Subgraph]) -> State:
        return dict(state)

    def complete(self, state: State) -> State:
        return state

    def to_module(self) -> nn.Module:
        raise AssertionError("an engine asks for no module")

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind}


MODEL: Model = SumOfNeighbours()


@pytest.mark.parametrize("train", [True, False])
def test_the_torch_engine_computes_models_that_it_does_not_know(train: bool) -> None:
    assert choose_engine(MODEL, CPU).name == "torch"
    batch, state = random_batch(GRAPH, [1, 4, 9], 5, 3), MODEL.init_state(0)
    engine = TorchEngine()
    plan = engine.plan(MODEL, batch, train=train)
    wanted = (GRAPH.dense.float() @ batch.graph.x)[batch.seeds]
    logits, vjp = engine.vjp(plan, state)
    torch.testing.assert_close(logits, wanted @ state["weight"])
    grad = torch.ones_like(logits)
    torch.testing.assert_close(vjp(grad)["weight"], (wanted.t() @ grad).double(), rtol=1e-5, atol=1e-5)
    dropped = engine.logits(plan, state, mode="train", dropout=engine.make_dropout(0.5, CPU, 0))
    assert not torch.equal(dropped, logits)
    with pytest.raises(ValueError, match="'sum' has no hidden states"):
        list(engine.hidden_states(plan, state))
    small, large = (engine.memory(MODEL, Extent(n, 8 * n, 8 * n, 3), mode="fit").total for n in (1000, 2000))
    assert 1.5 * small < large  # is measured


@every_kind
def test_the_fastest_engine_for_a_device_is_chosen(net: Architecture) -> None:
    assert choose_engine(net, CPU).name == "compiled"
    assert choose_engine(net, torch.device("cuda")).name == "triton"
    assert choose_engine(MODEL, torch.device("cuda")).name == "torch"


@every_kind
def test_what_an_engine_cannot_do_is_refused(net: Architecture) -> None:
    compiled, general, batch, state = CompiledEngine(), TorchEngine(), batch_of(net), random_state(net)
    with pytest.raises(ValueError, match="plan is not for training"):
        compiled.logits(compiled.plan(net, batch), state, mode="train", dropout=CountedDropout(0.5, 0))
    trains, drawn = compiled.plan(net, batch, train=True), DrawnDropout(0.5, torch.Generator())
    with pytest.raises(TypeError, match="masks of dropout that are counted"):
        compiled.logits(trains, state, mode="train", dropout=drawn)
    with pytest.raises(TypeError, match="no model of kind 'sum'"):
        compiled.plan(MODEL, batch)
    with pytest.raises(TypeError, match="no model of kind 'sum'"):
        compiled.memory(MODEL, Extent(10, 20, 20, 3), mode="fit")
    with pytest.raises(ValueError, match="does not divide"):
        general.plan(net, batch, division=Division(SERIAL))
    for engine, other in ((compiled, general), (general, compiled)):
        plan = other.plan(net, batch)
        for compute in (engine.logits, engine.vjp):
            with pytest.raises(TypeError, match="a plan of another engine"):
                compute(plan, state)


@every_kind
@every_engine
def test_an_engine_that_is_warm_computes_the_same(net: Architecture, engine: Engine) -> None:
    if engine.name == "triton" and (net.weighted or (net.kind == "gat" and net.heads != 2)):
        pytest.skip("one of each kind shows it")
    batch, state = batch_of(net), random_state(net)
    before = COMPILED.engine.logits(COMPILED.plan(net, batch), state)
    engine.warm_up(net)
    assert torch.equal(COMPILED.engine.logits(COMPILED.plan(net, batch), state), before)
