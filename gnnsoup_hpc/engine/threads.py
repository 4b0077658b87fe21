"""Threads for kernels and dense products on blocks of rows: the only room that starts threads to compute with.

Rows are cut into chunks, which depend on the structure alone and not on the number of threads. A chunk is one thread's
alone, and inside it dense products run on that one thread (BLAS is told so). So what a block's kernel writes, its
product finds in the core's own cache; no thread waits at a barrier between the two; and sums over chunks, taken in
their order, do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController

from gnnsoup_hpc.types import Dense, IndexArray

Span = tuple[int, int]  # first row, row after the last
_Result = TypeVar("_Result")

CHUNKS = 32  # of a matrix at most: each may need a gradient of the weights' size of its own
_CHUNK_ROWS = 1024  # at least: fewer are not worth a product
_STEP = 64  # rows: blocks of few different sizes, for some libraries compile a product for each
ROW_WORK = 32  # of a row, in entries: its share of dense products, roughly


class ThreadTeam:
    """As many threads as torch may use, for one pass; BLAS and torch use one thread a call meanwhile."""

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        # A thread asks torch for its number of threads at first, or OpenMP would have its own idea of it there.
        self._pool = ThreadPoolExecutor(self._threads, initializer=torch.get_num_threads)
        self._limited = _blas().limit(limits=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limited.restore_original_limits()
        self._pool.shutdown()
        torch.set_num_threads(self._threads)

    def each(self, task: Callable[..., _Result], chunks: Sequence[tuple[Any, ...]]) -> list[_Result]:
        """`task(*chunk)` for each chunk, as threads become free; what they return, in the chunks' order."""
        if len(chunks) == 1:
            return [task(*chunks[0])]
        return list(self._pool.map(lambda chunk: task(*chunk), chunks))


class Workspace:
    """Room for the matrices of passes, kept from pass to pass: fresh memory costs as much time as a pass over it.

    Used by one thread alone. What is taken and not given back is forgotten.
    """

    def __init__(self) -> None:
        self._free: list[Dense] = []

    def take(self, rows: int, width: int, dtype: npt.DTypeLike) -> Dense:
        """A matrix of undefined values, (rows, width), in the smallest room that is large enough, or in a new one."""
        size = rows * width
        fitting = [i for i, room in enumerate(self._free) if room.dtype == dtype and room.size >= size]
        if not fitting:
            self._free = sorted(self._free, key=lambda room: room.nbytes)[:-1]  # the new one replaces the largest
            return np.empty((rows, width), dtype)
        room = self._free.pop(min(fitting, key=lambda i: self._free[i].size))
        return room[:size].reshape(rows, width)

    def give(self, matrix: Dense) -> None:
        """Take back what nobody looks at any more."""
        room = matrix if matrix.base is None else matrix.base
        self._free.append(room.reshape(-1))


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries that NumPy's products run on; finding them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def cut_chunks(indptr: IndexArray) -> tuple[Span, ...]:
    """Chunks of about equal work; indptr (rows + 1,): entries before each row."""
    rows = len(indptr) - 1
    count = min(CHUNKS, max(1, rows // _CHUNK_ROWS))
    load = (indptr - indptr[0]).astype(np.int64) + ROW_WORK * np.arange(rows + 1)
    marks = load[-1] * np.arange(1, count) // count
    inner = np.searchsorted(load, marks) // _STEP * _STEP
    return tuple((start, stop) for start, stop in pairwise([0, *inner.tolist(), rows]) if start < stop)


def blocks(start: int, stop: int, rows: int) -> Iterator[Span]:
    """A chunk's rows in as few nearly equal blocks of at most `rows` as there are: short ones multiply slowly."""
    count = -(-(stop - start) // rows)
    size = min(rows, -(-(stop - start) // (count * _STEP)) * _STEP) if count else rows
    for first in range(start, stop, size):
        yield first, min(first + size, stop)
