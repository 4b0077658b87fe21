"""Exact metrics: the same by every way, on any number of ranks, in memory and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch.nn import functional

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator, Way
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.runtime.launch import Threads
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role, State
from tests import runs, tiny
from tests.comms import CheckingComm, ThreadComm, run_ranks

T = TypeVar("T")
pytestmark = pytest.mark.usefixtures("sections_of_three_rows")
ROLES = (Role.VALIDATION, Role.TEST)
SHARES = (0.0, 0.25, 0.5, 1.0)
PLENTY, LITTLE = 1 << 30, 300_000  # bytes: the graph in memory, and layer by layer
NETS = [
    Architecture("gcn", 2, tiny.FEATURES, 8, tiny.CLASSES),
    Architecture("sage", 3, tiny.FEATURES, 8, tiny.CLASSES, norm="layer"),
    Architecture("gat", 2, tiny.FEATURES, 8, tiny.CLASSES, heads=2),
]
every_net = pytest.mark.parametrize("net", NETS, ids=lambda net: net.kind)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with its graph.h5."""
    return runs.prepare_run(tmp_path_factory.mktemp("evaluator"))


@pytest.fixture
def graph(prepared: Job) -> Iterator[GraphFile]:
    with graph_store.open_graph(RunDir.of(prepared).graph, prepared) as opened:
        yield opened


def make_states(net: Architecture, count: int = 4) -> list[State]:
    """States of which one has a number that is not finite."""
    states = [net.init_state(seed) for seed in range(count)]
    states[1][f"convs.0.{'lin_l.bias' if net.kind == 'sage' else 'bias'}"][0] = torch.nan
    return states


def interpolate(states: list[State], share: float) -> State:
    return {name: share * states[0][name] + (1.0 - share) * states[2][name] for name in states[0]}


@dataclass
class Found:
    """Everything that an evaluator tells of some states."""

    each: list[float]
    ensemble: list[float]
    right: list[list[bool]]
    between: list[float]
    results: list[tuple[float, float]]


def evaluate_all(evaluator: Evaluator, net: Architecture) -> Found:
    states = make_states(net)
    of_one = evaluator.predictions(lambda: [states[0]], ROLES)
    assert [found.metric for found in of_one] == evaluator.metrics([states[0]], ROLES)
    assert [float(found.right.mean()) for found in of_one] == pytest.approx([found.metric for found in of_one])
    return Found(
        each=evaluator.metrics_of([lambda state=state: [state] for state in states], Role.VALIDATION),
        ensemble=evaluator.metrics([states[0], states[2], states[3]], ROLES),
        right=[found.right.tolist() for found in of_one],
        between=evaluator.metrics_between(
            lambda: (states[0], states[2]),
            [(share, lambda share=share: [interpolate(states, share)]) for share in SHARES],
            Role.VALIDATION,
        ),
        results=[
            (found.accuracy, found.loss)
            for found in evaluator.results([lambda state=state: [state] for state in states], Role.VALIDATION)
        ],
    )


def open_evaluator(
    prepared: Job, net: Architecture, memory: int, home: Path, use: Callable[[Evaluator], T], comm: Comm = SERIAL
) -> T:
    """`use` of an evaluator with a graph of its own."""
    with graph_store.open_graph(RunDir.of(prepared).graph, prepared) as graph:
        return use(Evaluator(graph, net, EvalSettings(runs.CPU, memory, home / str(comm.rank), comm=comm)))


def assert_same(found: Found, wanted: Found, rounding: float = 0.0) -> None:
    """Equal to the bit, but losses to `rounding`."""
    assert replace(found, results=[]) == replace(wanted, results=[])
    assert [metric for metric, _ in found.results] == [metric for metric, _ in wanted.results]
    losses = [loss for _, loss in wanted.results]
    assert [loss for _, loss in found.results] == pytest.approx(losses, rel=rounding, abs=0.0, nan_ok=True)


@pytest.fixture(scope="module")
def alone(prepared: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[Architecture, Found]:
    """What one rank finds in memory, of each model."""
    home = tmp_path_factory.mktemp("alone")
    return {
        net: open_evaluator(prepared, net, PLENTY, home, lambda evaluator, net=net: evaluate_all(evaluator, net))
        for net in NETS
    }


@every_net
def test_metrics_are_those_of_the_model_on_the_whole_graph(
    graph: GraphFile, net: Architecture, alone: dict[Architecture, Found]
) -> None:
    found = alone[net]
    whole, states = loader.load_whole(graph, Role.VALIDATION), make_states(net)

    def right(logits: torch.Tensor, role: Role) -> list[bool]:
        batch = loader.share_graph(graph, whole, role)
        return (logits.argmax(1)[batch.seeds] == batch.targets).tolist()

    logits = [net.forward(state, whole.graph) for state in states]
    assert found.right == [right(logits[0], role) for role in ROLES]
    shares = [np.mean(right(each, Role.VALIDATION)) for each in logits]
    assert found.each == [shares[0], 0.0, *shares[2:]]  # the second has a score that is not finite
    average = reduce(torch.add, (logits[number].softmax(1) for number in (0, 2, 3)))
    assert found.ensemble == [np.mean(right(average, role)) for role in ROLES]
    middle = [net.forward(interpolate(states, share), whole.graph) for share in SHARES]
    assert found.between == [np.mean(right(each, Role.VALIDATION)) for each in middle]
    losses = [float(functional.cross_entropy(each[whole.seeds], whole.targets)) for each in logits]
    assert [loss for _, loss in found.results] == pytest.approx(losses, rel=1e-5, nan_ok=True)
    assert [metric for metric, _ in found.results] == found.each
    assert len(set(found.each)) > 2


@every_net
@pytest.mark.parametrize("memory", [PLENTY, LITTLE], ids=["in memory", "layer by layer"])
@pytest.mark.parametrize("way", list(Way), ids=lambda way: way.name)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_way_gives_the_same_on_all_ranks(
    prepared: Job,
    net: Architecture,
    memory: int,
    way: Way,
    size: int,
    alone: dict[Architecture, Found],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def use(evaluator: Evaluator) -> Found:
        assert evaluator.fits == (memory != LITTLE)
        return evaluate_all(evaluator, net)

    def rank(comm: ThreadComm) -> Found:
        return open_evaluator(prepared, net, memory, tmp_path, use, CheckingComm(comm))

    monkeypatch.setattr(Evaluator, "choose_way", lambda self, count: way)
    for found in run_ranks(size, rank):
        assert_same(found, alone[net], rounding=0.0 if memory == PLENTY else 1e-5)


def count_models(prepared: Job, home: Path, size: int, threads: Threads = Threads()) -> list[list[int]]:  # noqa: B008
    """Of each rank, torch's threads while it makes each model that it evaluates, of 8."""
    net = NETS[0]

    def rank(comm: ThreadComm) -> list[int]:
        made: list[int] = []

        def make(seed: int) -> list[State]:
            made.append(torch.get_num_threads())
            return [net.init_state(seed)]

        with graph_store.open_graph(RunDir.of(prepared).graph, prepared) as graph:
            settings = EvalSettings(runs.CPU, PLENTY, home / str(comm.rank), comm=comm, threads=threads)
            models = [lambda seed=seed: make(seed) for seed in range(8)]
            Evaluator(graph, net, settings).metrics_of(models, Role.VALIDATION)
        return made

    return run_ranks(size, rank)


def test_ranks_divide_models_evenly(prepared: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "choose_way", lambda self, count: Way.MODELS)
    assert [len(made) for made in count_models(prepared, tmp_path, 3)] == [3, 3, 2]
    monkeypatch.setattr(Evaluator, "choose_way", lambda self, count: Way.NODES)
    assert [len(made) for made in count_models(prepared, tmp_path, 3)] == [8, 8, 8]


def test_rank_0_alone_has_the_threads_of_all_meanwhile(
    prepared: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(Evaluator, "choose_way", lambda self, count: Way.ALONE)
    assert count_models(prepared, tmp_path, 2, Threads(before + 1)) == [[before + 1] * 8, []]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_results_come_in_the_order_of_the_models(prepared: Job, tmp_path: Path, size: int, count: int) -> None:
    net = NETS[1]

    def use(evaluator: Evaluator) -> list[float]:
        models = [lambda seed=seed: [net.init_state(seed)] for seed in range(count)]
        first = evaluator.metrics_of(models, Role.VALIDATION)
        assert evaluator.metrics_of(models, Role.VALIDATION) == first
        return first

    wanted = open_evaluator(prepared, net, PLENTY, tmp_path, use)
    assert len(wanted) == count
    found = run_ranks(size, lambda comm: open_evaluator(prepared, net, PLENTY, tmp_path, use, CheckingComm(comm)))
    assert found == [wanted] * size


@pytest.mark.parametrize(
    ("size", "count", "memory", "way"),
    [
        (1, 8, PLENTY, Way.ALONE),
        (3, 0, PLENTY, Way.ALONE),
        (3, 1, PLENTY, Way.NODES),
        (3, 3, PLENTY, Way.NODES),
        (3, 8, PLENTY, Way.NODES),
        (2, 8, PLENTY, Way.NODES),
        (2, 20, PLENTY, Way.MODELS),
        (3, 20, PLENTY, Way.NODES),
        (3, 21, PLENTY, Way.MODELS),
        (2, 1, LITTLE, Way.ALONE),
        (2, 5, LITTLE, Way.MODELS),
    ],
)
def test_how_ranks_evaluate(graph: GraphFile, tmp_path: Path, size: int, count: int, memory: int, way: Way) -> None:
    """Each together, unless dividing the models, and reading the graph for it, leaves hardly a rank without work."""

    def rank(comm: ThreadComm) -> Way:
        return Evaluator(graph, NETS[1], EvalSettings(runs.CPU, memory, tmp_path, comm=comm)).choose_way(count)

    assert run_ranks(size, rank) == [way] * size


def test_an_ensemble_is_the_mean_of_softmax_outputs_and_not_of_logits(graph: GraphFile, tmp_path: Path) -> None:
    net = NETS[0]
    states = [{name: 2.0**seed * tensor for name, tensor in net.init_state(1 + seed).items()} for seed in range(4)]
    evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, PLENTY, tmp_path))
    batch = loader.load_whole(graph, Role.VALIDATION)
    logits = torch.stack([net.forward(state, batch.graph)[batch.seeds] for state in states])
    voted, loudest = logits.softmax(2).mean(0).argmax(1), logits.mean(0).argmax(1)
    (found,) = evaluator.predictions(lambda: states, (Role.VALIDATION,))
    assert not torch.equal(voted, loudest)
    assert found.right.tolist() == (voted == batch.targets).tolist()


def test_a_graph_that_is_in_memory_is_not_read_again(graph: GraphFile, tmp_path: Path) -> None:
    """Plans are kept until other nodes are asked for."""
    net = NETS[1]
    evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, LITTLE, tmp_path))
    wanted = evaluator.metrics([net.init_state(0)], ROLES)
    evaluator.keep(loader.load_whole(graph, Role.TRAIN))
    assert evaluator.metrics([net.init_state(0)], ROLES) == wanted
    assert evaluator.plan(ROLES) is evaluator.plan(ROLES)
    assert evaluator.plan((Role.TEST,)) is not evaluator.plan(ROLES)
    assert not (tmp_path / "hidden").exists()
