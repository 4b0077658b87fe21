"""A world of threads in place of MPI: what `Team`, `serve` and `swap_over` use of a communicator, through queues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from typing import Any

import numpy as np

Post = dict[tuple[int, int, int], Queue[Any]]  # by sender, receiver and tag
PATIENCE = 600.0  # seconds until a message that does not come is an error


class Request:
    """A message on its way: `Test` tells whether it is there, and puts it in place."""

    def __init__(self, test: Callable[[], bool]) -> None:
        self._test, self._done = test, False

    def Test(self) -> bool:  # noqa: N802 - MPI's name
        self._done = self._done or self._test()
        return self._done


class World:
    """One rank's end of a communicator."""

    def __init__(
        self, rank: int, size: int, post: dict[tuple[int, int, int], Queue[Any]], lost: threading.Event
    ) -> None:
        self.rank, self.size, self._post, self._lost = rank, size, post, lost

    def send(self, message: Any, dest: int, tag: int) -> None:
        self._post[self.rank, dest, tag].put(message)

    def iprobe(self, source: int, tag: int) -> bool:
        if self._lost.is_set():
            raise RuntimeError("another rank has failed")
        return not self._post[source, self.rank, tag].empty()

    def recv(self, source: int, tag: int) -> Any:
        return self._post[source, self.rank, tag].get(timeout=PATIENCE)

    def Isend(self, rows: np.ndarray, dest: int, tag: int) -> Request:  # noqa: N802
        self.send(rows.copy(), dest, tag)
        return Request(lambda: True)

    def Irecv(self, room: np.ndarray, source: int, tag: int) -> Request:  # noqa: N802
        def test() -> bool:
            if not self.iprobe(source, tag):
                return False
            room[...] = self.recv(source, tag)
            return True

        return Request(test)


def worlds(size: int) -> list[World]:
    """Every rank's end of one communicator."""
    tags = (1, 2)
    post = {(a, b, tag): Queue[Any]() for a in range(size) for b in range(size) for tag in tags}
    lost = threading.Event()
    return [World(rank, size, post, lost) for rank in range(size)]


def on_all_ranks(size: int, task: Callable[[World], Any]) -> list[Any]:
    """`task` on a thread for each rank; what they return, or the first error."""
    ours = worlds(size)
    found: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(world: World) -> None:
        try:
            found[world.rank] = task(world)
        except BaseException as error:  # noqa: BLE001 - passed on below
            errors.append(error)
            world._lost.set()

    threads = [threading.Thread(target=run, args=(world,)) for world in ours]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a rank waits for ever"
    return found
