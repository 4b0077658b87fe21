"""This package's way of each task, as the soup methods do it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import Cell
from gnnsoup_hpc.config import TaskJob
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Plan, choose_engine
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.evaluation.tasks import make_task
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.mixing import ParameterMatrix
from gnnsoup_hpc.train.batches import Batches, ClusterBatches, FullBatches, HostGraph, MakePlan, NeighbourBatches
from gnnsoup_hpc.train.loop import TrainData, Training
from gnnsoup_hpc.types import Role, State
from gnnsoup_hpc.utils.optimisers import SGD
from gnnsoup_hpc.utils.out_of_core import BufferPool

_CPU = torch.device("cpu")


def make_batches(cell: Cell, graph: GraphFile, plan: MakePlan) -> Batches:
    """What an epoch of training is made of."""
    if cell.batch == "full":
        whole = loader.load_whole(graph, Role.TRAIN)
        return FullBatches(graph, whole, loader.share_graph(graph, whole, Role.VALIDATION), plan)
    if cell.batch == "cluster":
        return ClusterBatches(graph, cell.union, plan)
    drawn = tasks.BATCH_SIZE, (tasks.FANOUT,), cell.layers
    return NeighbourBatches(graph, 1, plan, *drawn, "compiled", HostGraph(graph))


class OurTraining:
    """An epoch of training, as the trainer does it, without what comes between epochs."""

    def __init__(self, cell: Cell, graph: GraphFile) -> None:
        self._cell, self._graph = cell, graph
        self._net = tasks.make_architecture(cell, graph)
        self._engine, self._epochs = choose_engine(self._net, _CPU), 0
        self._engine.warm_up(self._net)
        loader.warm_up()

    def prepare(self) -> None:
        """Read the graph, where training has it in memory."""
        plan = partial(self._engine.plan, self._net, train=True, precision=self._cell.precision, workspace=BufferPool())
        evaluator = Evaluator(self._graph, self._net, EvalSettings(_CPU, 0, Path()))
        data = TrainData(self._net, self._engine, make_batches(self._cell, self._graph, plan), evaluator, _CPU)
        how = Hyperparameters(1, tasks.TRAIN_RATE, 0.0, tasks.DROPOUT)
        self._training = Training(data, self._net.init_state(tasks.SEED), how, tasks.SEED, 0)

    def once(self) -> float:
        """The mean loss."""
        self._epochs += 1
        return self._training.take_steps(self._epochs)


class Ours:
    """All tasks but training; what is done once a graph is done in `prepare`."""

    def __init__(self, cell: Cell, graph: GraphFile) -> None:
        self._cell, self._graph = cell, graph
        self._net = tasks.make_architecture(cell, graph)
        self._engine, self._task = choose_engine(self._net, _CPU), make_task(TaskJob(), graph)
        self._raw = tasks.draw_start(cell).requires_grad_()
        self._whole: Plan | None = None
        # What a process pays once, compiling for one, is paid before the baseline of either pass is taken.
        self._engine.warm_up(self._net)
        self._task.warm_up()
        mixing.warm_up()
        loader.warm_up()

    def prepare(self) -> None:
        """Read ingredients, and the whole graph where the task needs it."""
        ids = range(self._cell.ingredients)
        self._matrix = ParameterMatrix.of(self._net, ids, tasks.make_states(self._cell, self._net), _CPU)
        drawn = tasks.draw_unions(self._cell, self._graph)
        plan = partial(self._engine.plan, self._net, precision=self._cell.precision)
        unions = partial(plan, workspace=BufferPool())
        self._unions = loader.stream_unions(self._graph, drawn, Role.VALIDATION, unions)
        if self._cell.task != "pls_step":
            self._whole = plan(loader.load_whole(self._graph, Role.VALIDATION))
        if self._cell.task == "gis_step" and self._whole is not None:
            self._ends = [self._accuracy(self._matrix.state(row), self._whole) for row in self._matrix.weights[:2]]

    def once(self) -> float:
        """Accuracy, or loss of the step."""
        if self._whole is None:
            return self._step(next(self._unions))
        if self._cell.task == "evaluation":
            return self._accuracy(self._matrix.state(self._matrix.weights[0]), self._whole)
        return self._step(self._whole) if self._cell.task == "ls_epoch" else self._gis(self._whole)

    def _step(self, plan: Plan) -> float:
        optimiser = SGD([self._raw], lr=tasks.LEARNING_RATE)
        optimiser.zero_grad(set_to_none=True)
        alpha = self._raw.softmax(1)
        state = mixing.mix(self._matrix, alpha.detach(), "layer")
        logits, vjp = self._engine.vjp(plan, state)
        leaf = logits.requires_grad_()
        loss = self._task.loss(leaf, plan.targets)
        (grad,) = torch.autograd.grad(loss, leaf)
        pulled = (alpha * mixing.gradient(self._matrix, vjp(grad), "layer").to(alpha)).sum()
        pulled.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    def _accuracy(self, state: State, plan: Plan) -> float:
        return self._judge(self._engine.logits(plan, state), plan)

    def _judge(self, logits: torch.Tensor, plan: Plan) -> float:
        return self._task.metric(self._task.predict(logits).numpy(), plan.targets.numpy())

    def _gis(self, plan: Plan) -> float:
        """As the method does it: of the ratios 1 and 0 the accuracies are known from earlier steps."""
        soup, other = self._matrix.weights[:2]
        inside = tasks.list_ratios(self._cell.granularity)[1:-1]
        between = ((a, self._matrix.state(a * soup + (1.0 - a) * other)) for a in inside)
        ends = self._matrix.state(soup), self._matrix.state(other)
        found = [self._judge(logits, plan) for logits in self._engine.interpolate(plan, ends, between)]
        return max(*self._ends, *found)
