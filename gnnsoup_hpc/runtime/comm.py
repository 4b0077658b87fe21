"""What ranks do together: broadcast, gather, sum, exchange of halo rows. Serial, or over MPI.

Souping is SPMD: every rank calls the same methods of its Comm in the same order. Where an exception ends a collective
on one rank, the others must be ended too (`launch.abort_others`), or they wait for ever.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.types import ByteArray, Dense, Doubles, IndexArray

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm, Request

T = TypeVar("T")
Moves = Sequence[tuple[int, IndexArray, IndexArray]]  # another rank, rows that go there, rows that come from there

_CHUNK_BYTES = 1 << 28  # of one message; MPI 3 counts in 32 bits
_SPIN_SECONDS = 0.005  # of polling without a pause: about what a step on a small batch takes
_NAP_SECONDS = 0.001
_TAG = 1


class Comm:
    """The ranks of a world, as one of them sees it; here, the world of one rank alone. All methods are collective."""

    rank = 0
    size = 1

    def bcast(self, value: T) -> T:
        """Rank 0's value, any object that can be pickled; what the others pass is ignored."""
        return value

    def allgather(self, value: T) -> list[T]:
        """One value a rank, in the ranks' order; its own is the object itself."""
        return [value]

    def sum_in_order(self, values: Doubles) -> Doubles:
        """A new array: the sum of float64 arrays of one shape in the ranks' order, of the same bits on all ranks."""
        return np.array(values, np.float64)

    def exchange(self, matrix: Dense, moves: Moves) -> None:
        """Send rows of `matrix` (rows, ...) to other ranks, and put theirs in place.

        What rank a sends to rank b, b expects from a: as many rows, of the same shape and dtype. `moves` names a rank
        once at most; a rank with nothing to exchange calls with none. All rows are read before any is overwritten.
        Raises: ValueError where one rank alone is given moves.
        """
        if moves:
            raise ValueError(f"one rank alone cannot exchange rows with rank {moves[0][0]}")


SERIAL = Comm()


class MpiComm(Comm):
    """The ranks of an MPI world. Messages of any size are sent in chunks.

    It never blocks inside MPI, whose waiting burns the core that another rank may compute on: it polls, and soon sleeps
    between polls. Its messages travel on a duplicate of the communicator, apart from all others.
    """

    def __init__(self, world: Intracomm, chunk_bytes: int = _CHUNK_BYTES) -> None:
        """Rank-collective."""
        self._world, request = world.Idup()
        _wait([request])
        self.rank, self.size, self._chunk_bytes = world.rank, world.size, chunk_bytes

    def bcast(self, value: T) -> T:
        """Rank 0's value; on rank 0 the object itself."""
        mine = _to_bytes(value) if self.rank == 0 else np.empty(0, np.uint8)
        length = np.array([len(mine)])
        _wait([self._world.Ibcast(length)])
        content = mine if self.rank == 0 else np.empty(int(length[0]), np.uint8)
        _wait([self._world.Ibcast(chunk) for chunk in self._split(content)])
        return value if self.rank == 0 else pickle.loads(content.data)

    def allgather(self, value: T) -> list[T]:
        """One value a rank, in the ranks' order; its own is the object itself."""
        mine, lengths = _to_bytes(value), np.empty(self.size, np.int64)
        _wait([self._world.Iallgather(np.array([len(mine)]), lengths)])
        contents = [np.empty(length, np.uint8) for length in lengths.tolist()]
        contents[self.rank] = mine
        _wait(
            [
                self._world.Ibcast(chunk, root=rank)  # one Iallgatherv is slow in MPICH where lengths are unlike
                for rank, content in enumerate(contents)
                for chunk in self._split(content)
            ]
        )
        return [value if rank == self.rank else pickle.loads(content.data) for rank, content in enumerate(contents)]

    def sum_in_order(self, values: Doubles) -> Doubles:
        """Sum over ranks of float64 arrays of one shape, in the ranks' order."""
        out = np.array(values, np.float64, order="C")
        for chunk in self._split(out.reshape(-1), parts=self.size):
            found = np.empty((self.size, len(chunk)))
            _wait([self._world.Iallgather(chunk, found)])
            chunk[:] = found[0]
            for part in found[1:]:
                chunk += part
        return out

    def exchange(self, matrix: Dense, moves: Moves) -> None:
        """Send rows of `matrix` (rows, ...) to other ranks, and put theirs in place."""
        coming = [np.empty((len(rows), *matrix.shape[1:]), matrix.dtype) for _, _, rows in moves]
        pending = [
            self._world.Irecv(chunk, source=rank, tag=_TAG)
            for (rank, _, _), room in zip(moves, coming, strict=True)
            for chunk in self._split(room.reshape(-1))
        ]
        pending += [
            self._world.Isend(chunk, dest=rank, tag=_TAG)
            for rank, rows, _ in moves
            for chunk in self._split(matrix[rows].reshape(-1))
        ]
        _wait(pending)
        for (_, _, rows), room in zip(moves, coming, strict=True):
            matrix[rows] = room

    def _split(self, flat: npt.NDArray[Any], parts: int = 1) -> list[npt.NDArray[Any]]:
        """Views of a flat array, so small that `parts` of them fit into one message."""
        step = max(1, self._chunk_bytes // (parts * flat.itemsize))
        return [flat[start : start + step] for start in range(0, len(flat), step)]


def _to_bytes(value: object) -> ByteArray:
    return np.frombuffer(pickle.dumps(value, protocol=5), np.uint8)


def _wait(requests: Sequence[Request]) -> None:
    """Poll until all are complete; at first without a pause, though another process may have the core meanwhile."""
    awake = time.perf_counter() + _SPIN_SECONDS
    while sum(not request.Test() for request in requests):  # each: it is the test that moves a message on
        if time.perf_counter() < awake:
            os.sched_yield()
        else:
            time.sleep(_NAP_SECONDS)
