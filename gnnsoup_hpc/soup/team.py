"""Ranks while souping: rank 0 coordinates, the others tell accuracies and take part in joint passes (joint.py).

A waiting rank soon sleeps between looks, for MPI's own waiting burns the core that another rank may compute on.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnsoup_hpc import engine
from gnnsoup_hpc.engine import Ready
from gnnsoup_hpc.engine.compiled.passes import HaloExchange, Moves
from gnnsoup_hpc.engine.sharding import NodeShare
from gnnsoup_hpc.evaluation.averages import AverageSpec
from gnnsoup_hpc.evaluation.evaluator import Predictions
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io.records import EvalResult
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.joint import PartDraws, RankPasses
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.types import Dense, Grouping, IntArray, Role

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_WAKE_SECONDS = 0.005  # of looking without a pause: about what a step on a small union takes
_NAP_SECONDS = 0.001
_JOINT_EFFICIENCY = 0.85  # of accuracies that two ranks tell together (docs/cluster.md)
_READING = 2  # accuracies in whose time a rank reads the whole graph and first touches the memory of its states
_ORDERS, _BORDERS = 1, 2  # tags of messages


class Team:
    """Rank 0's side. Without a communicator, rank 0 does everything itself."""

    def __init__(self, communicator: Intracomm | None, threads_shared: int) -> None:
        self._world = communicator
        self._threads_shared = threads_shared
        self._side: RankPasses | None = None  # while there are joint passes
        self._asked: list[tuple[int, int]] = []  # of a joint pass, each rank's asked nodes

    @property
    def size(self) -> int:
        """Number of ranks."""
        return 1 if self._world is None else int(self._world.size)

    def accuracies(self, station: MixtureEvaluator, tastes: Sequence[Candidate]) -> list[float]:
        """Validation accuracies, in the order of `tastes`: each by all ranks together, or rank r takes every P-th."""
        if self._joint(station, len(tastes)):
            return [marks[0].accuracy for marks in self._marked(station, tastes, (Role.VALIDATION,))]
        return self._shared("taste", tastes, lambda mine: [station.accuracy(taste) for taste in mine])

    def along(self, station: MixtureEvaluator, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        """Validation accuracies of share * start + (1 - share) * end, alphas (1, N), in the order of `shares`."""
        if self._joint(station, len(shares)):
            found = self._classes(station, "line", (start, end, shares), lambda side: side.along(start, end, shares))
            return [station.marked(classes, (Role.VALIDATION,))[0].accuracy for classes in found]
        return self._shared("along", shares, lambda mine: station.along(start, end, mine), (start, end))

    def marks(self, station: MixtureEvaluator, taste: Candidate, roles: Sequence[Role]) -> list[Predictions]:
        """Exact accuracies of a mixture on the nodes of some roles, node by node."""
        return self._marked(station, [taste], roles)[0] if self._joint(station, 1) else station.marks(taste, roles)

    def _joint(self, station: MixtureEvaluator, count: int) -> bool:
        """Whether all ranks tell each of so many accuracies together.

        They do so unless each can hold the whole graph and dividing the number, and reading the graph for it, leaves
        hardly a rank without work.
        """
        if self._world is None or not count or not station.fits_shared(self.size):
            return False
        busy = (_READING + count) / (self.size * (_READING + math.ceil(count / self.size)))
        return station.streams or busy < _JOINT_EFFICIENCY

    def _marked(
        self, station: MixtureEvaluator, tastes: Sequence[Candidate], roles: Sequence[Role]
    ) -> list[list[Predictions]]:
        found = self._classes(station, "classes", (tastes, roles), lambda side: side.classes(tastes, roles))
        return [station.marked(classes, roles) for classes in found]

    def _classes(
        self, station: MixtureEvaluator, order: str, content: Any, mine: Callable[[RankPasses], list[IntArray]]
    ) -> list[IntArray]:
        """Predicted classes, of each mixture, that all ranks find by an order: each of its own nodes."""
        assert self._world is not None
        self.tell(order, content)
        with self._abreast():
            found = [mine(RankPasses(station, NodeShare(0, self.size), exchange_over(self._world)))]
            found += [receive(self._world, rank) for rank in range(1, self.size)]
        return [np.concatenate(pieces) for pieces in zip(*found, strict=True)]

    @contextmanager
    def _abreast(self) -> Iterator[None]:
        """Threads as rank 0 has them while other ranks compute."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads_shared)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def weighed(self, station: MixtureEvaluator, loads: Sequence[AverageSpec]) -> list[EvalResult]:
        """What means of ingredients are worth on validation nodes, in the order of `loads`."""
        return self._shared("weigh", loads, station.weighed)

    def _shared(
        self, order: str, items: Sequence[_Item], alone: Callable[[Sequence[_Item]], list[_Answer]], also: Any = None
    ) -> list[_Answer]:
        """One answer for each item; rank r takes every P-th from r on, by an order that `serve` knows."""
        if not items:
            return []
        if self._world is None or len(items) < 2:
            return alone(items)
        helpers = range(1, min(self.size, len(items)))
        for rank in helpers:
            self._world.send((order, (list(items[rank :: self.size]), also)), dest=rank, tag=_ORDERS)
        with self._abreast():
            answers = [alone(items[:: self.size])]
        answers += [receive(self._world, rank) for rank in helpers]
        return [answers[number % self.size][number // self.size] for number in range(len(items))]

    def tell(self, order: str, content: Any = None) -> None:
        """Give every other rank an order, one of those of `serve`, or "open"."""
        if self._world is not None:
            for rank in range(1, self.size):
                self._world.send((order, content), dest=rank, tag=_ORDERS)

    def meet(self) -> None:
        """Wait until every other rank has done all that it was told, so that no measurement holds what was before."""
        self.tell("meet")
        for rank in range(1, self.size):
            assert self._world is not None
            receive(self._world, rank)

    @contextmanager
    def views(self, station: MixtureEvaluator, which: PartDraws | None) -> Iterator[Callable[[], Ready | None]]:
        """Yield what gives one view after the other, None after the last: of unions, or of the whole graph for ever.

        Where ranks can compute on a view together, each has its part of it, until the block ends.
        """
        if self._world is None or not station.splits:
            side = RankPasses(station)
            side.open(which)
            try:
                yield side.turn
            finally:
                side.close()
            return
        self._side = side = RankPasses(station, NodeShare(0, self.size), exchange_over(self._world))
        self.tell("views", which)

        def turn() -> Ready | None:
            self.tell("turn")
            return side.turn()

        side.open(which)
        try:
            with self._abreast():
                yield turn
        finally:
            side.close()
            self._side = None
            self.tell("end")

    def scores(self, station: MixtureEvaluator, alpha_GN: Tensor, by: Grouping, view: Ready) -> Tensor:
        """Class scores (n, C) of a mixture on a view's asked nodes, differentiable in alpha."""
        if isinstance(view, Batch):
            return engine.compute_logits(station.architecture, mixing.mix(station.shelf, alpha_GN, by), view)
        found: Tensor = _Scores.apply(alpha_GN, self, self._side or RankPasses(station), by, view)  # type: ignore[no-untyped-call]
        return found

    def forward(self, side: RankPasses, alpha_GN: Tensor, by: Grouping, view: Ready) -> Dense:
        """Class scores of all asked nodes, each rank's from that rank."""
        if side is self._side:
            self.tell("forward", (alpha_GN, by))
        found = [side.forward(alpha_GN, by, view)]
        if side is self._side and self._world is not None:
            found += [receive(self._world, rank) for rank in range(1, self.size)]
        self._asked = [asked for asked, _ in found]
        return found[0][1] if len(found) == 1 else np.concatenate([scores for _, scores in found])

    def backward(self, side: RankPasses, grad: Dense) -> Tensor:
        """The gradient of alpha, (G, N) float64: the sum of what each rank's rows add to it, in the ranks' order."""
        others = range(1, len(self._asked))
        for rank in others:
            assert self._world is not None
            self._world.send(("backward", grad[slice(*self._asked[rank])]), dest=rank, tag=_ORDERS)
        total = side.backward(grad[slice(*self._asked[0])])
        for rank in others:
            assert self._world is not None
            total = total + receive(self._world, rank)
        return total


class _Scores(torch.autograd.Function):
    """Everything between alpha (G, N) and class scores (n, C) as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, team: Team, side: RankPasses, by: Grouping, view: Ready) -> Tensor:
        ctx.team, ctx.side, ctx.kind = team, side, alpha.dtype
        return torch.from_numpy(team.forward(side, alpha.detach(), by, view))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.team.backward(ctx.side, grad.contiguous().numpy()).to(ctx.kind), None, None, None, None


def serve(communicator: Intracomm, station: MixtureEvaluator) -> None:
    """The other ranks' side: do as rank 0 asks until it says to leave."""
    side = RankPasses(station, NodeShare(communicator.rank, communicator.size), exchange_over(communicator))

    def answer(content: Any) -> None:
        communicator.send(content, dest=0, tag=_ORDERS)

    def along(content: Any) -> None:
        shares, (start, end) = content
        answer(station.along(start, end, shares))

    does: dict[str, Callable[[Any], object]] = {
        "warm": lambda _: station.warm_up(),
        "align": lambda alignment: station.align(alignment),
        "clear": lambda exact: station.clear(exact=bool(exact)),
        "meet": answer,
        "taste": lambda content: answer([station.accuracy(taste) for taste in content[0]]),
        "weigh": lambda content: answer(station.weighed(content[0])),
        "along": along,
        "classes": lambda content: answer(side.classes(*content)),
        "line": lambda content: answer(side.along(*content)),
        "views": side.open,
        "turn": lambda _: side.turn(),
        "forward": lambda content: answer(side.forward(*content)),
        "backward": lambda grad: answer(side.backward(grad)),
        "end": lambda _: side.close(),
    }
    while True:
        order, content = receive(communicator, 0)
        if order == "leave":
            return
        does[order](content)


def receive(communicator: Intracomm, source: int) -> Any:
    """The next order or answer from `source`."""
    _wait(lambda: bool(communicator.iprobe(source=source, tag=_ORDERS)))
    return communicator.recv(source=source, tag=_ORDERS)


def exchange_over(communicator: Intracomm) -> HaloExchange:
    """What exchanges border rows between the ranks of a world."""

    def swap(matrix: Dense, moves: Moves) -> None:
        width = matrix.shape[1]
        coming = {rank: np.empty((len(rows), width), matrix.dtype) for rank, _, rows in moves if len(rows)}
        going = {rank: matrix[rows] for rank, rows, _ in moves if len(rows)}
        pending = [communicator.Irecv(room, source=rank, tag=_BORDERS) for rank, room in coming.items()]
        pending += [communicator.Isend(rows, dest=rank, tag=_BORDERS) for rank, rows in going.items()]
        _wait(lambda: sum(not request.Test() for request in pending) == 0)  # each: a test is what moves a message on
        for rank, _, rows in moves:
            if len(rows):
                matrix[rows] = coming[rank]

    return swap


def _wait(done: Callable[[], bool]) -> None:
    """Until something is done; first without a pause, though another process may have the core meanwhile."""
    awake = time.perf_counter() + _WAKE_SECONDS
    while not done():
        if time.perf_counter() < awake:
            os.sched_yield()
        else:
            time.sleep(_NAP_SECONDS)
