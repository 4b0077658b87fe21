"""Ranks while souping: rank 0 coordinates, the others tell accuracies. Only alphas and accuracies travel.

A waiting rank sleeps between looks, for MPI's own waiting burns the core that rank 0 computes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from gnnsoup_hpc.diagnosis.scales import Load
from gnnsoup_hpc.records import Judgement
from gnnsoup_hpc.soup.station import Station, Taste

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_NAP_SECONDS = 0.001


class Team:
    """Rank 0's side. Without a communicator, rank 0 does everything itself."""

    def __init__(self, communicator: Intracomm | None, threads_shared: int) -> None:
        self._world = communicator
        self._threads_shared = threads_shared

    @property
    def size(self) -> int:
        """Number of ranks."""
        return 1 if self._world is None else int(self._world.size)

    def accuracies(self, station: Station, tastes: Sequence[Taste]) -> list[float]:
        """Validation accuracies, in the order of `tastes`; rank r takes every P-th from r on."""
        return self._shared("taste", tastes, lambda mine: [station.accuracy(taste) for taste in mine])

    def along(self, station: Station, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        """Validation accuracies of share * start + (1 - share) * end, alphas (1, N), in the order of `shares`."""
        return self._shared("along", shares, lambda mine: station.along(start, end, mine), (start, end))

    def weighed(self, station: Station, loads: Sequence[Load]) -> list[Judgement]:
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
            self._world.send((order, (list(items[rank :: self.size]), also)), dest=rank)
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads_shared)
        answers = [alone(items[:: self.size])]
        torch.set_num_threads(threads)
        answers += [receive(self._world, rank) for rank in helpers]
        return [answers[number % self.size][number // self.size] for number in range(len(items))]

    def tell(self, order: str, content: Any = None) -> None:
        """Give every other rank an order: "open", "align", "clear" (with True: exact from now on) or "leave"."""
        if self._world is not None:
            for rank in range(1, self.size):
                self._world.send((order, content), dest=rank)


def serve(communicator: Intracomm, station: Station) -> None:
    """The other ranks' side: do as rank 0 asks until it says to leave."""
    while True:
        order, content = receive(communicator, 0)
        if order == "leave":
            return
        if order == "align":
            station.align(content)
        if order == "clear":
            station.clear(exact=bool(content))
        if order == "taste":
            communicator.send([station.accuracy(taste) for taste in content[0]], dest=0)
        if order == "weigh":
            communicator.send(station.weighed(content[0]), dest=0)
        if order == "along":
            shares, (start, end) = content
            communicator.send(station.along(start, end, shares), dest=0)


def receive(communicator: Intracomm, source: int) -> Any:
    """The next message from `source`; sleeps while there is none."""
    while not communicator.iprobe(source=source):
        time.sleep(_NAP_SECONDS)
    return communicator.recv(source=source)
