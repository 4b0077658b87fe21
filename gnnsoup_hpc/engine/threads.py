"""Threads for kernels and dense products on blocks of rows: the only room that starts threads to compute with.

Rows are cut into chunks, which depend on the structure alone and not on the number of threads. A chunk is one thread's
alone, and inside it dense products run on that one thread (BLAS is told so). So what a block's kernel writes, its
product finds in the core's own cache; no thread waits at a barrier between the two; and sums over chunks, taken in
their order, do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from gnnsoup_hpc.types import IndexArray

Span = tuple[int, int]  # first row, row after the last
_Result = TypeVar("_Result")

CHUNKS = 32  # of a matrix at most: each may need a gradient of the weights' size of its own
_CHUNK_ROWS = 1024  # at least: fewer are not worth a product
STEP = 64  # rows: blocks of few different sizes, for some libraries compile a product for each
ROW_WORK = 32  # of a row, in entries: its share of dense products, roughly

# Threads stay from pass to pass, by their number: new ones cost milliseconds, for BLAS asks for memory of each.
POOLS: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=POOLS.clear)  # where those threads are not


class ThreadTeam:
    """As many threads as torch may use, for one pass; BLAS and torch use one thread a call meanwhile."""

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        if self._threads not in POOLS:
            # A thread asks torch for its number of threads at first, or OpenMP would have its own idea of it there.
            POOLS[self._threads] = ThreadPoolExecutor(self._threads, "team", initializer=torch.get_num_threads)
        self._pool = POOLS[self._threads]
        self._limited = _blas().limit(limits=1)
        return self

    def __exit__(self, *error: object) -> None:
        self._limited.restore_original_limits()
        torch.set_num_threads(self._threads)

    def each(self, task: Callable[..., _Result], chunks: Sequence[tuple[Any, ...]]) -> list[_Result]:
        """`task(*chunk)` for each chunk, as threads become free; what they return, in the chunks' order."""
        if len(chunks) == 1:
            return [task(*chunks[0])]
        running = [self._pool.submit(task, *chunk) for chunk in chunks]
        try:
            return [each.result() for each in running]
        finally:  # of an error or a signal, nothing goes on behind whoever it ends
            for each in running:
                each.cancel()
            wait(running)


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
    inner = np.searchsorted(load, marks) // STEP * STEP
    return tuple((start, stop) for start, stop in pairwise([0, *inner.tolist(), rows]) if start < stop)


def blocks(start: int, stop: int, rows: int) -> Iterator[Span]:
    """A chunk's rows in as few nearly equal blocks of at most `rows` as there are: short ones multiply slowly."""
    count = -(-(stop - start) // rows)
    size = min(rows, -(-(stop - start) // (count * STEP)) * STEP) if count else rows
    for first in range(start, stop, size):
        yield first, min(first + size, stop)
