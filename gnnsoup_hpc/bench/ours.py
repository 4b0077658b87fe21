"""This package's way of each task, as the soup methods do it."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from gnnsoup_hpc import engine
from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import BenchTask, Cell
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Ready
from gnnsoup_hpc.engine.compiled.plan import Plan
from gnnsoup_hpc.engine.compiled.threads import Workspace
from gnnsoup_hpc.evaluation import evaluator
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.mixing import mix
from gnnsoup_hpc.soup.parameter_matrix import ParameterMatrix
from gnnsoup_hpc.types import Role, State


class Ours:
    """All four tasks; what is done once a graph is done in `prepare`."""

    def __init__(self, cell: Cell, graph: GraphFile) -> None:
        self._cell, self._graph = cell, graph
        self._net = tasks.make_architecture(cell, graph)
        self._raw = tasks.draw_start(cell).requires_grad_()
        self._whole: Ready | None = None
        self._space = Workspace()

    def prepare(self) -> None:
        """Stack the ingredients; read the whole graph where the task needs it."""
        ids = range(self._cell.ingredients)
        self._shelf = ParameterMatrix.of(self._net, ids, tasks.make_states(self._cell, self._net), torch.device("cpu"))
        drawn = tasks.draw_unions(self._cell, self._graph)
        ready = partial(engine.plan_batch, self._net, space=self._space, precision=self._cell.precision)
        self._unions = loader.stream_unions(self._graph, drawn, Role.VALIDATION, ready)
        if self._cell.task != "pls_step":
            whole = loader.load_whole(self._graph, Role.VALIDATION)
            self._whole = engine.plan_batch(self._net, whole, precision=self._cell.precision)
        if self._cell.task == "gis_step" and self._whole is not None:
            self._ends = [self._accuracy(self._shelf.state(row), self._whole) for row in self._shelf.weights[:2]]

    def once(self) -> float:
        """Accuracy, or loss of the step."""
        if self._whole is None:
            return self._step(next(self._unions))
        if self._cell.task == "evaluation":
            return self._accuracy(self._shelf.state(self._shelf.weights[0]), self._whole)
        return self._step(self._whole) if self._cell.task == "ls_epoch" else self._gis(self._whole)

    def _step(self, view: Ready) -> float:
        optimiser = torch.optim.SGD([self._raw], lr=tasks.LEARNING_RATE)
        optimiser.zero_grad(set_to_none=True)
        state = mix(self._shelf, self._raw.softmax(1), "layer")
        loss = functional.cross_entropy(engine.compute_logits(self._net, state, view), view.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def _accuracy(self, state: State, view: Ready) -> float:
        return evaluator.accuracy(engine.compute_logits(self._net, state, view), view.labels)

    @torch.no_grad()
    def _gis(self, view: Ready) -> float:
        """As the method does it: of the ratios 1 and 0 the accuracies are known from earlier steps."""
        soup, other = self._shelf.weights[:2]
        inside = tasks.list_ratios(self._cell.granularity)[1:-1]
        between = [(a, self._shelf.state(a * soup + (1.0 - a) * other)) for a in inside]
        if not isinstance(view, Plan):
            return max(*self._ends, *(self._accuracy(state, view) for _, state in between))
        line = engine.LinearInterpolator.between(self._net, self._shelf.state(soup), self._shelf.state(other), view)
        found = [evaluator.accuracy(line.scores(self._net, state, a), view.labels) for a, state in between]
        line.close()
        return max(*self._ends, *found)


def warm_up(cell: Cell) -> None:
    """Pay what the process pays once, compiling for one, before the baseline of either pass is taken."""
    engine.warm_up(cell.model)
    mixing.warm_up()
    loader.warm_up()


def make(cell: Cell, graph: GraphFile) -> BenchTask:
    """Our way of a cell's task."""
    return Ours(cell, graph)
