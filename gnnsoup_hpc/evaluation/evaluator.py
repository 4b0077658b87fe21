"""Exact metrics of given weights: on the whole graph in memory where it fits, else layer by layer; by one rank or many.

All ways give the same predictions, but where two logits differ by no more than float32 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial, reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.config import TaskJob
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Division, Plan, UnionSource, choose_engine
from gnnsoup_hpc.engine.out_of_core.layers import allocate, make_layerwise
from gnnsoup_hpc.evaluation.tasks import Predicted, Task, make_task
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.first_aggregation import FirstAggregationFile
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import EvalResult, Judged
from gnnsoup_hpc.memory import estimate, gpu
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.runtime.launch import Threads
from gnnsoup_hpc.types import (
    BoolArray,
    ByteArray,
    Doubles,
    IntArray,
    MetricName,
    Precision,
    Recompute,
    Role,
    State,
    Targets,
)

Members = Sequence[State]  # one model, or those of an ensemble, whose outputs are averaged
MakeMembers = Callable[[], Members]
Timed = Callable[[str], AbstractContextManager[None]]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_JOINT_EFFICIENCY = 0.85  # of evaluations that two ranks make together (docs/cluster.md)
_READING = 2  # evaluations in whose time a rank reads the whole graph and first touches the memory of its states


class Way(Enum):
    """How ranks evaluate several models: rank 0 all, or each rank its share of them, or all ranks each together."""

    ALONE = auto()
    MODELS = auto()
    NODES = auto()


@dataclass(frozen=True)
class Predictions:
    """The metric on some nodes, and what its errors are told by: hits of nodes, (n,), or bootstrap samples, (B,).

    others: metrics that tell what the task's own hides.
    """

    metric: float
    right: BoolArray | None
    draws: Doubles | None = None
    others: Mapping[MetricName, float] = field(default_factory=dict)


def compute_paired_error(task: Task, one: Predictions, other: Predictions) -> float:
    """Standard error of the difference of two models' metrics on the same nodes; inf where it is not known."""
    if one.right is None or other.right is None:
        return task.paired_spread(one.draws, other.draws)
    only = (int((one.right & ~other.right).sum()), int((other.right & ~one.right).sum()))
    return task.paired_error(*only, len(one.right))


def note_judgement(task: Task, validation: Predictions, test: Predictions) -> Judged:
    """What a file says of how its model was judged."""
    mean, spread = task.target_scale
    others = {f"test_{name}": value for name, value in test.others.items()}
    return Judged(task.name, validation.draws, test.draws, others, mean, spread)


@dataclass(frozen=True)
class EvalSettings:
    """How a rank evaluates.

    memory: bytes that graph and states may fill; gpu: of the GPU, None where there is none. home: the run's folder,
    which takes what must spill. timed: books the time of reading. recompute: which mixtures' running statistics. task:
    what labels mean, as the job has it.
    """

    device: torch.device
    memory: int
    home: Path
    precision: Precision = "float32"
    comm: Comm = SERIAL
    threads: Threads = field(default_factory=Threads)
    timed: Timed = lambda phase: nullcontext()
    gpu: int | None = None
    recompute: Recompute = "each"
    task: TaskJob = field(default_factory=TaskJob)

    def allow(self, host: int, gpu: int) -> bool:
        """Whether so many bytes are there."""
        return host <= self.memory and (self.gpu is None or gpu <= self.gpu)


@dataclass(frozen=True)
class _Known:
    """The nodes of some roles, rising, and their roles, (n,) each, and targets, (n,) or (n, T)."""

    nodes: IntArray
    roles: ByteArray
    targets: Targets


class Evaluator:
    """Exact metrics of states of one model on one graph. Every method is rank-collective over the settings' ranks.

    task: where it is not that of the graph, which then may have no labels.
    """

    def __init__(self, graph: GraphFile, model: Model, settings: EvalSettings, task: Task | None = None) -> None:
        self.model, self.device = model, settings.device
        self._graph, self._settings = graph, settings
        self.engine = choose_engine(model, self.device)
        self.task = task or make_task(settings.task, graph)
        self._sizes = Sizes.of(graph, model, self.device)
        # Whether the whole graph fits on one rank.
        self.fits, self._line_fits = (
            settings.allow(estimate.inference(self._sizes, line), gpu.inference(self._sizes, settings.precision, line))
            for line in (False, True)
        )
        self._whole: Batch | None = None
        self._kept: Batch | None = None
        self._plan: tuple[tuple[Role, ...], bool, Plan] | None = None
        self._last: tuple[tuple[Role, ...], _Known] | None = None

    def warm_up(self) -> None:
        """Load what tells the metric."""
        self.task.warm_up()

    def keep(self, whole: Batch) -> None:
        """Use a batch of the whole graph that is in memory already."""
        self._whole = whole

    def plan(self, roles: Sequence[Role] = (Role.VALIDATION,), divided: bool = False) -> Plan:
        """The whole graph made ready for the nodes of some roles, or this rank's share of it; kept until others are.

        Of a share, features that other ranks have are not even read.
        """
        key = tuple(roles), divided
        if self._plan is None or self._plan[:2] != key:
            self._plan = None  # before the next one is built
            with self._settings.timed("graph"):
                self._plan = (*key, self._read(roles, divided))
        return self._plan[2]

    def release(self) -> None:
        """Give back what was planned, unless it is of a batch that is in memory anyway."""
        if self._whole is None:
            self._plan = self._kept = None

    def hold(self, role: Role, hop: FirstAggregationFile | None) -> tuple[str, UnionSource | None]:
        """Where unions of parts are read from, in words, and what they are cut out of, None where it is the file.

        A GPU cuts them out of the whole graph in its own memory, if that leaves most of it free, or in pinned memory of
        the host, if that is within its limit.
        """
        settings, sizes = self._settings, self._sizes
        if not self.engine.holds or 2 * estimate.reading(self.model, sizes.whole) > settings.memory:
            return "the file", None
        resident = gpu.resident(sizes) <= (settings.gpu or 0) // 4
        whole = loader.load_union(self._graph, range(self._graph.parts), role, hop=hop)
        where = "the graph on the GPU" if resident else "the graph in pinned memory"
        return where, self.engine.hold(whole, self.device, resident)

    @property
    def recomputes(self) -> bool:
        """Whether mixtures get running statistics of their own: the model has any, and the settings allow it."""
        return bool(self.model.statistics) and self._settings.recompute != "none"

    @torch.no_grad()
    def recompute(self, state: State) -> State:
        """The state with running statistics of its own, over all nodes, or as it is; this rank alone does it.

        Of one pass over the whole graph where it is in memory, else over its parts, one after the other.
        """
        if not self.recomputes:
            return state
        if self.fits or self._whole is not None:
            with self._settings.timed("graph"):
                whole = self._load_whole()
            return self.model.recompute(state, iter([whole.graph]))
        parts = ([part] for part in range(self._graph.parts))
        ready = partial(Batch.to, device=self.device)
        with closing(loader.stream_unions(self._graph, parts, Role.VALIDATION, ready)) as batches:
            return self.model.recompute(state, (batch.graph for batch in batches))

    def _load_whole(self) -> Batch:
        """Kept for what follows where the model has statistics, which are told of the same graph."""
        if (kept := self._whole or self._kept) is not None:
            return kept
        found = loader.load_whole(self._graph, Role.VALIDATION)
        if self.model.statistics:
            self._kept = found = found.to(self.device)
        return found

    def _read(self, roles: Sequence[Role], divided: bool) -> Plan:
        settings, known = self._settings, self._known(roles)
        division = Division(settings.comm, None if self._graph.sparse else self._graph.x_of) if divided else None
        if division and division.read_rows:
            subgraph = loader.load_structure(self._graph, range(self._graph.parts))
        else:
            subgraph = self._load_whole().graph
        batch = Batch(subgraph, torch.from_numpy(known.nodes), torch.from_numpy(known.targets))
        return self.engine.plan(self.model, batch, device=self.device, precision=settings.precision, division=division)

    def metrics(self, members: Members, roles: Sequence[Role]) -> list[float]:
        """The metric of one model, or of the mean of several models' outputs, on the nodes of each role."""
        return [found.metric for found in self.predictions(lambda: members, roles)]

    def predictions(self, make: MakeMembers, roles: Sequence[Role]) -> list[Predictions]:
        """Metric and right nodes of a model, or of several models' mean outputs, on the nodes of each role, which rise.

        Only ranks that compute call `make`.
        """

        def evaluate(mine: Sequence[MakeMembers], divided: bool) -> list[list[Predictions]]:
            found = self._predict(mine, roles, divided, self.task.predict_both)
            return [self._by_role(both, roles) for both in found]

        return self._divide([make], evaluate)[0]

    def scores(self, members: Members) -> Iterator[tuple[IntArray, Tensor]]:
        """(ids in the source, outputs (n, C)) of all nodes, by one model or as the mean of several; by this rank."""
        for first, outputs in self.outputs(members):
            ids = self._graph.original_ids(first, first + len(outputs))
            yield ids, (outputs / len(members) if len(members) > 1 else outputs).cpu()

    def outputs(self, members: Members) -> Iterator[tuple[int, Tensor]]:
        """(first node, logits (n, C) from there on) of all nodes, or of several models the sum of what is averaged."""
        yield from self._logits(members, tuple(Role))

    def metrics_of(self, models: Sequence[MakeMembers], role: Role) -> list[float]:
        """The metric of each of several models on the nodes of a role."""
        targets = self._known((role,)).targets

        def evaluate(mine: Sequence[MakeMembers], divided: bool) -> list[float]:
            return [self.task.metric(predicted, targets) for predicted in self._predict(mine, (role,), divided)]

        return self._divide(models, evaluate)

    def metrics_between(
        self, ends: Callable[[], tuple[State, State]], between: Sequence[tuple[float, MakeMembers]], role: Role
    ) -> list[float]:
        """The metric of states share * ends[0] + (1 - share) * ends[1], each given with its share.

        Where the graph is in memory, what is linear in the share is computed once for all of them.
        """
        targets = self._known((role,)).targets

        def evaluate(mine: Sequence[tuple[float, MakeMembers]], divided: bool) -> list[float]:
            found: Iterable[Predicted]
            if divided or self._line_fits:
                made = ((share, make()[0]) for share, make in mine)
                lines = self.engine.interpolate(self.plan((role,), divided), ends(), made)
                local = [self.task.predict(logits) for logits in lines]
                found = self._gather(local) if divided else (predicted.cpu().numpy() for predicted in local)
            else:
                found = self._predict([make for _, make in mine], (role,), divided)
            return [self.task.metric(predicted, targets) for predicted in found]

        return self._divide(between, evaluate)

    def results(self, models: Sequence[MakeMembers], role: Role) -> list[EvalResult]:
        """Metric and mean loss of each of several models on the nodes of a role, each computed by one rank.

        The sum runs in float64 over nodes in their order, so it depends on no block and no thread.
        """
        return self._divide(models, lambda mine, _: [self._result(make()[0], role) for make in mine], joint=False)

    def _result(self, state: State, role: Role) -> EvalResult:
        targets = self._known((role,)).targets
        predicted, losses = [], []
        for first, logits in self._logits([state], (role,)):
            predicted.append(self.task.predict(logits).cpu().numpy())
            losses.append(self.task.losses(logits, torch.from_numpy(targets[first : first + len(logits)])))
        whole = np.concatenate(predicted)
        loss = float(np.concatenate(losses).mean())
        return EvalResult(self.task.metric(whole, targets), loss, self.task.draws(whole, targets))

    def choose_way(self, count: int) -> Way:
        """How ranks evaluate so many models.

        They make each together unless each can hold the whole graph, and dividing the models, and reading the graph for
        it, leaves hardly a rank without work.
        """
        ranks = self._settings.comm.size
        if ranks == 1 or not count:
            return Way.ALONE
        if self.engine.divides and estimate.inference(self._sizes, line=True, ranks=ranks) <= self._settings.memory:
            busy = (_READING + count) / (ranks * (_READING + math.ceil(count / ranks)))
            if not self.fits or busy < _JOINT_EFFICIENCY:
                return Way.NODES
        return Way.MODELS if count > 1 else Way.ALONE

    def _divide(
        self, items: Sequence[_Item], evaluate: Callable[[Sequence[_Item], bool], list[_Result]], joint: bool = True
    ) -> list[_Result]:
        """One result for each item, on all ranks; `evaluate` is given items and whether all ranks have them."""
        comm, threads = self._settings.comm, self._settings.threads
        way = self.choose_way(len(items))
        if way is Way.NODES and not joint:
            way = Way.MODELS if len(items) > 1 else Way.ALONE
        if way is Way.NODES:
            return evaluate(items, True)
        if way is Way.MODELS:  # rank r takes every P-th from r on
            found = comm.allgather(evaluate(items[comm.rank :: comm.size], False))
            return [found[number % comm.size][number // comm.size] for number in range(len(items))]
        with threads.alone():
            return comm.bcast(evaluate(items, False) if comm.rank == 0 else [])

    def _predict(
        self,
        models: Sequence[MakeMembers],
        roles: Sequence[Role],
        divided: bool,
        predict: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Iterator[Predicted]:
        """Each model's predictions of all nodes of some roles, rising: by this rank alone, or `divided` by all."""
        predict = predict or self.task.predict
        if divided:
            plan = self.plan(roles, divided=True)

            outputs = ((self._outputs(members, plan), len(members)) for members in (make() for make in models))
            yield from self._gather([predict(*each) for each in outputs])
            return
        for make in models:
            members = make()
            pieces = (predict(outputs, len(members)) for _, outputs in self._logits(members, roles))
            yield np.concatenate([piece.cpu().numpy() for piece in pieces])

    def _gather(self, local: Sequence[Tensor]) -> list[Predicted]:
        """Predictions of all nodes, of each model, from those of each rank's own."""
        found = self._settings.comm.allgather([predicted.cpu().numpy() for predicted in local])
        return [np.concatenate(pieces) for pieces in zip(*found, strict=True)]

    def _by_role(self, both: Predicted, roles: Sequence[Role]) -> list[Predictions]:
        known, task = self._known(roles), self.task
        found = []
        for role in roles:
            targets = known.targets[known.roles == role]
            predicted, others = task.judge_both(both[known.roles == role], targets)
            draws = task.draws(predicted, targets)
            metric = task.metric(predicted, targets, recorded=True)
            found.append(Predictions(metric, task.hits(predicted, targets), draws, others))
        return found

    def _known(self, roles: Sequence[Role]) -> _Known:
        """Read once for as long as the same roles are asked for."""
        if self._last is None or self._last[0] != tuple(roles):
            self._last = None
            of = self._graph.role(0, self._graph.nodes)
            nodes = np.flatnonzero(np.isin(of, [int(role) for role in roles]))
            self._last = tuple(roles), _Known(nodes, of[nodes], self._graph.y(0, self._graph.nodes)[nodes])
        return self._last[1]

    def _logits(self, members: Members, roles: Sequence[Role]) -> Iterator[tuple[int, Tensor]]:
        """(place among the nodes, outputs from there on) of one model, or a multiple of the mean of several."""
        planned = self._plan is not None and self._plan[:2] == (tuple(roles), False)
        if self.fits or planned or self._whole is not None:
            yield 0, self._outputs(members, self.plan(roles))
            return
        nodes = self._known(roles).nodes
        with files.scratch(self._settings.home / "hidden") as folder:
            left = max(1, self._settings.memory - self._sizes.evaluated_node * self._graph.nodes)
            layers = make_layerwise(self._graph, self.model, left, folder, self.device, nodes)
            total = None
            if len(members) > 1:
                shape = len(nodes), self.model.outputs
                total = allocate(folder, "total", *shape, in_memory=32 * math.prod(shape) < left)
            for number, state in enumerate(members, 1):
                for first, outputs in layers.scores(state):
                    if total is not None:  # what the models before gave is in it
                        outputs = self.task.average(outputs)
                        span = slice(first, first + len(outputs))
                        if number > 1:
                            outputs = torch.from_numpy(total[span]).to(outputs.device) + outputs
                        total[span] = outputs.cpu().numpy()
                    if number == len(members):
                        yield first, outputs

    @torch.no_grad()
    def _outputs(self, members: Members, plan: Plan) -> Tensor:
        """Of this rank's own nodes of a plan."""
        if len(members) == 1:
            return self.engine.logits(plan, members[0])
        return reduce(torch.add, (self.task.average(self.engine.logits(plan, state)) for state in members))
