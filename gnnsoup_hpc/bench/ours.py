"""This package's way of each task, as the soup methods do it."""

from __future__ import annotations

import torch
from torch.nn import functional

from gnnsoup_hpc import engine, evaluate, stream
from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import Cell, Task
from gnnsoup_hpc.crew import Space
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.plan import Plan
from gnnsoup_hpc.records import Role, State
from gnnsoup_hpc.soup.mixing import mixed
from gnnsoup_hpc.soup.shelf import Shelf
from gnnsoup_hpc.store.graph import GraphFile
from gnnsoup_hpc.subgraph import View


class Ours:
    """All four tasks; what is done once a graph is done in `prepare`."""

    def __init__(self, cell: Cell, graph: GraphFile) -> None:
        self._cell, self._graph = cell, graph
        self._net = tasks.architecture(cell, graph)
        self._raw = tasks.start(cell).requires_grad_()
        self._whole: Plan | View | None = None
        self._space = Space()

    def prepare(self) -> None:
        """Fill the shelf; read the whole graph where the task needs it."""
        ids = range(self._cell.ingredients)
        self._shelf = Shelf.of(self._net, ids, tasks.states(self._cell, self._net), torch.device("cpu"))
        self._draws = tasks.unions(self._cell, self._graph)
        if self._cell.task != "pls_step":
            self._whole = engine.prepared(self._net, stream.whole(self._graph, Role.VALIDATION))

    def once(self) -> float:
        """Accuracy, or loss of the step."""
        if self._whole is None:
            union = stream.union_of_parts(self._graph, next(self._draws), Role.VALIDATION)
            return self._step(engine.prepared(self._net, union, self._space))
        if self._cell.task == "evaluation":
            return self._accuracy(self._shelf.state(self._shelf.weights[0]), self._whole)
        return self._step(self._whole) if self._cell.task == "ls_epoch" else self._gis(self._whole)

    def _step(self, view: Plan | View) -> float:
        optimiser = torch.optim.SGD([self._raw], lr=tasks.LEARNING_RATE)
        optimiser.zero_grad(set_to_none=True)
        state = mixed(self._shelf, self._raw.softmax(1), "layer")
        loss = functional.cross_entropy(engine.scores(self._net, state, view), view.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def _accuracy(self, state: State, view: Plan | View) -> float:
        return evaluate.accuracy(engine.scores(self._net, state, view), view.labels)

    @torch.no_grad()
    def _gis(self, view: Plan | View) -> float:
        soup, other = self._shelf.weights[:2]
        candidates = (self._shelf.state(a * soup + (1.0 - a) * other) for a in tasks.ratios(self._cell))
        return max(self._accuracy(candidate, view) for candidate in candidates)


def warm_up(cell: Cell) -> None:
    """Pay what the process pays once, compiling for one, before the baseline of either pass is taken."""
    engine.warm_up(cell.model)


def made(cell: Cell, graph: GraphFile) -> Task:
    """Our way of a cell's task.

    Raises: RunError for a precision that we do not have.
    """
    if cell.precision != "float32":
        raise RunError(f"{cell.name}: there is no {cell.precision} yet")
    return Ours(cell, graph)
