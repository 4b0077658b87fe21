"""Comms for tests: a world of threads in one process, and a wrapper that finds ranks out of order."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from gnnsoup_hpc.runtime.comm import Comm, Moves
from gnnsoup_hpc.types import Dense, Doubles

T = TypeVar("T")
PATIENCE = 60.0  # seconds until a rank that does not come is an error


class WorldError(RuntimeError):
    """A collective cannot be completed, because another rank has ended or does not come."""


class OrderError(RuntimeError):
    """Ranks call different collectives, or the same one with arguments that do not fit."""


class ThreadWorld:
    """What the ranks of a process share: everything that each has said, in its order."""

    def __init__(self, size: int) -> None:
        self._said: list[list[bytes]] = [[] for _ in range(size)]
        self._ended: set[int] = set()
        self._change = threading.Condition()

    def share(self, rank: int, value: object) -> list[Any]:
        """Every rank's value of this turn, in the ranks' order, as copies. Raises: WorldError."""
        with self._change:
            self._said[rank].append(pickle.dumps(value))
            turn = len(self._said[rank])
            self._change.notify_all()
            while missing := {other for other, said in enumerate(self._said) if len(said) < turn}:
                if missing & self._ended:
                    raise WorldError(f"rank {rank} waits for rank {min(missing & self._ended)}, which has ended")
                if not self._change.wait(PATIENCE):
                    raise WorldError(f"rank {rank} has waited {PATIENCE:.0f} s for rank {min(missing)}")
            return [pickle.loads(said[turn - 1]) for said in self._said]

    def end(self, rank: int) -> None:
        """Say that a rank comes no more."""
        with self._change:
            self._ended.add(rank)
            self._change.notify_all()


class ThreadComm(Comm):
    """A rank on a thread. What it gets from others are copies, as from another process."""

    def __init__(self, world: ThreadWorld, rank: int, size: int) -> None:
        self._world, self.rank, self.size = world, rank, size

    def bcast(self, value: T) -> T:
        found: T = self._world.share(self.rank, value if self.rank == 0 else None)[0]
        return value if self.rank == 0 else found

    def allgather(self, value: T) -> list[T]:
        return self._world.share(self.rank, value)

    def sum_in_order(self, values: Doubles) -> Doubles:
        total, *others = self._world.share(self.rank, np.array(values, np.float64))
        for part in others:
            total = total + part
        return np.asarray(total)

    def exchange(self, matrix: Dense, moves: Moves) -> None:
        sent = self._world.share(self.rank, {rank: matrix[rows] for rank, rows, _ in moves})
        for rank, _, rows in moves:
            matrix[rows] = sent[rank][self.rank]


class CheckingComm(Comm):
    """One that compares, before each collective, what the ranks are about to call.

    Where that differs, all ranks raise OrderError, in place of waiting for ever or computing nonsense.
    """

    def __init__(self, comm: Comm) -> None:
        self._comm, self.rank, self.size = comm, comm.rank, comm.size

    def bcast(self, value: T) -> T:
        self._check("bcast")
        return self._comm.bcast(value)

    def allgather(self, value: T) -> list[T]:
        self._check("allgather")
        return self._comm.allgather(value)

    def sum_in_order(self, values: Doubles) -> Doubles:
        self._check(f"sum_in_order of {values.dtype} {values.shape}")
        return self._comm.sum_in_order(values)

    def exchange(self, matrix: Dense, moves: Moves) -> None:
        self._check(f"exchange of {matrix.dtype} rows {matrix.shape[1:]}")
        self._check_moves(moves)
        self._comm.exchange(matrix, moves)

    def _check(self, call: str) -> None:
        calls = self._comm.allgather(call)
        if len(set(calls)) > 1:
            raise OrderError("; ".join(f"rank {rank} calls {call}" for rank, call in enumerate(calls)))

    def _check_moves(self, moves: Moves) -> None:
        """Whether every rank expects as many rows as others send to it."""
        all_moves = self._comm.allgather([(rank, len(going), len(coming)) for rank, going, coming in moves])
        sent = {(a, b): going for a, own in enumerate(all_moves) for b, going, _ in own if going}
        expected = {(a, b): coming for b, own in enumerate(all_moves) for a, _, coming in own if coming}
        for a, b in sorted(sent.keys() | expected.keys()):
            if sent.get((a, b)) != expected.get((a, b)):
                rows = f"{sent.get((a, b), 0)} rows to rank {b}, which expects {expected.get((a, b), 0)}"
                raise OrderError(f"rank {a} sends {rows}")


def run_ranks(size: int, function: Callable[[ThreadComm], T]) -> list[T]:
    """`function` on a thread for each rank of a world; each rank's result, in order.

    A rank that raises or returns breaks the world: another that waits for it raises WorldError. Raises: the first error
    of the lowest rank that did not only wait for another.
    """
    world = ThreadWorld(size)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadComm(world, rank, size))
        except BaseException as error:  # noqa: BLE001 - raised below
            errors[rank] = error
        finally:
            world.end(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors.items(), key=lambda item: (isinstance(item[1], WorldError), item[0]))[1]
    return [results[rank] for rank in range(size)]
