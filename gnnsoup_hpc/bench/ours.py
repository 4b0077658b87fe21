"""This package's way of each task, as the soup methods do it."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import Cell
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Plan, choose_engine
from gnnsoup_hpc.evaluation.tasks import make_task
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.mixing import ParameterMatrix
from gnnsoup_hpc.types import Role, State
from gnnsoup_hpc.utils.out_of_core import BufferPool

_CPU = torch.device("cpu")


class Ours:
    """All four tasks; what is done once a graph is done in `prepare`."""

    def __init__(self, cell: Cell, graph: GraphFile) -> None:
        self._cell, self._graph = cell, graph
        self._net = tasks.make_architecture(cell, graph)
        self._engine, self._task = choose_engine(self._net, _CPU), make_task(graph.source, self._net.outputs)
        self._raw = tasks.draw_start(cell).requires_grad_()
        self._whole: Plan | None = None
        # What a process pays once, compiling for one, is paid before the baseline of either pass is taken.
        self._engine.warm_up(self._net)
        self._task.metric(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))  # loads ogb's Evaluator
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
        optimiser = torch.optim.SGD([self._raw], lr=tasks.LEARNING_RATE)
        optimiser.zero_grad(set_to_none=True)
        alpha = self._raw.softmax(1)
        state = mixing.mix(self._matrix, alpha.detach(), "layer")
        logits, vjp = self._engine.vjp(plan, state)
        leaf = logits.requires_grad_()
        loss = self._task.loss(leaf, plan.targets)
        (grad,) = torch.autograd.grad(loss, leaf)
        alpha.backward(mixing.gradient(self._matrix, vjp(grad), "layer").to(alpha))  # type: ignore[no-untyped-call]
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
