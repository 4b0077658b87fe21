"""Compiled kernels on rows of a CSR structure: the only room that knows numba.

Each takes the rows first to last - 1 and lets go of Python's lock, so that `in_parallel` runs one on every thread that
torch may use. A row is one thread's alone and its entries are summed in their order, so no result depends on the number
of threads. numba's own thread pool is not used: beside those of torch and BLAS, three would spin on the same cores.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numba
import numpy as np
import torch

from gnnsoup_hpc.records import IndexArray, IntArray

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PIECES_A_THREAD = 4  # so that a thread which the system holds up holds up little


def _compiled(function: _Function) -> _Function:
    """Compile for the types of the first call, and keep the machine code in the cache beside this file."""
    made: _Function = numba.njit(function, nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
    return made


@_compiled
def _scale(scale: Any, i: int, x: Any) -> Any:
    return scale[i] if len(scale) > 0 else x.dtype.type(1)


@_compiled
def scaled_sums(
    first: int,
    last: int,
    start: IndexArray,
    end: IndexArray,
    indices: IndexArray,
    row_scale: Any,
    column_scale: Any,
    x: Any,
    out: Any,
    shift: int,
) -> None:
    """out[r - shift] = row_scale[r] * sum over entries e of row r of column_scale[c] * x[c], with c = indices[e].

    The entries of row r are start[r] to end[r] - 1. A scale of length 0 is 1 everywhere.
    """
    width = x.shape[1]
    for r in range(first, last):
        total = out[r - shift]
        for j in range(width):
            total[j] = 0
        e, stop = start[r], end[r]
        while e + 4 <= stop:  # four rows of x at a time: a quarter of the traffic to and from `total`
            a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
            p, q = _scale(column_scale, a, x), _scale(column_scale, b, x)
            s, t = _scale(column_scale, c, x), _scale(column_scale, d, x)
            for j in range(width):
                total[j] += ((p * x[a, j] + q * x[b, j]) + s * x[c, j]) + t * x[d, j]
            e += 4
        while e < stop:
            a = indices[e]
            p = _scale(column_scale, a, x)
            for j in range(width):
                total[j] += p * x[a, j]
            e += 1
        scale = _scale(row_scale, r, x)
        for j in range(width):
            total[j] *= scale


@_compiled
def transposed(indptr: IndexArray, indices: IndexArray, columns: int) -> tuple[IndexArray, IndexArray]:
    """CSR of the transpose; the rows of each column in rising order."""
    start = np.zeros(columns + 1, dtype=indptr.dtype)
    for e in range(len(indices)):
        start[indices[e] + 1] += 1
    for c in range(columns):
        start[c + 1] += start[c]
    place = start[:-1].copy()
    rows = np.empty_like(indices)
    for r in range(len(indptr) - 1):
        for e in range(indptr[r], indptr[r + 1]):
            c = indices[e]
            rows[place[c]] = r
            place[c] += 1
    return start, rows


@_compiled
def reached(
    indptr: IndexArray, indices: IndexArray, nodes: IntArray, hops: int, order: IndexArray, local: IndexArray
) -> IntArray:
    """Breadth first along in-neighbours: counts (hops + 1,) of nodes within 0, 1, ... hops of `nodes`.

    Fills order (V,) with the nodes as they are reached, each hop's in rising order, and local (V,), which starts at -1,
    with their places there.
    """
    counts = np.empty(hops + 1, dtype=np.int64)
    filled = len(nodes)
    for i in range(filled):
        order[i] = nodes[i]
        local[nodes[i]] = i
    counts[0] = filled
    before = 0
    for hop in range(hops):
        for i in range(before, filled):
            v = order[i]
            for e in range(indptr[v], indptr[v + 1]):
                if local[indices[e]] == -1:
                    local[indices[e]] = -2
        before = filled
        for v in range(len(local)):
            if local[v] == -2:
                local[v] = filled
                order[filled] = v
                filled += 1
        counts[hop + 1] = filled
    return counts


@_compiled
def renumbered(
    indptr: IndexArray, indices: IndexArray, order: IndexArray, local: IndexArray
) -> tuple[IndexArray, IndexArray]:
    """CSR of the rows `order`, their entries in the ids of `local`, in the order in which they were."""
    start = np.zeros(len(order) + 1, dtype=indptr.dtype)
    for i in range(len(order)):
        start[i + 1] = start[i] + indptr[order[i] + 1] - indptr[order[i]]
    entries = np.empty(start[-1], dtype=indices.dtype)
    for i in range(len(order)):
        at = start[i]
        for e in range(indptr[order[i]], indptr[order[i] + 1]):
            entries[at] = local[indices[e]]
            at += 1
    return start, entries


@_compiled
def ends_below(start: IndexArray, indices: IndexArray, rows: int, bound: int) -> IndexArray:
    """For each of the first `rows` rows, where its entries (in rising order) stop being below `bound`."""
    end = np.empty(rows, dtype=start.dtype)
    for r in range(rows):
        low, high = start[r], start[r + 1]
        while low < high:
            middle = (low + high) // 2
            if indices[middle] < bound:
                low = middle + 1
            else:
                high = middle
        end[r] = low
    return end


def in_parallel(kernel: Callable[..., None], first: int, last: int, work: IndexArray, *arguments: Any) -> None:
    """Run `kernel` on the rows first to last - 1, cut into pieces of equal work; work (V,): entries before each row.

    Entries and rows are both counted, so neither hubs nor empty rows pile up in one piece.
    """
    threads = torch.get_num_threads()
    if threads == 1 or last - first < 2 * threads:
        kernel(first, last, *arguments)
        return
    pieces = threads * _PIECES_A_THREAD
    load = work[first:last].astype(np.int64) + np.arange(last - first)
    marks = load[0] + (load[-1] - load[0]) * np.arange(1, pieces) // pieces
    bounds = [first, *(first + np.searchsorted(load, marks)).tolist(), last]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(kernel, a, b, *arguments) for a, b in pairwise(bounds) if a < b]:
            done.result()


@_compiled
def with_loops(indptr: IndexArray, indices: IndexArray) -> tuple[IndexArray, IndexArray]:
    """The same square structure with exactly one self-loop a node, at the end of its row."""
    start = np.zeros_like(indptr)
    for r in range(len(indptr) - 1):
        count = 1
        for e in range(indptr[r], indptr[r + 1]):
            count += indices[e] != r
        start[r + 1] = start[r] + count
    entries = np.empty(start[-1], dtype=indices.dtype)
    for r in range(len(indptr) - 1):
        at = start[r]
        for e in range(indptr[r], indptr[r + 1]):
            if indices[e] != r:
                entries[at] = indices[e]
                at += 1
        entries[at] = r
    return start, entries
