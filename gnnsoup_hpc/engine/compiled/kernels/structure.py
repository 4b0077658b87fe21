"""Structures derived from others: transposes, neighbourhoods, renumberings."""

from __future__ import annotations

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import IndexArray, IntArray


@compile_kernel
def transpose(indptr: IndexArray, indices: IndexArray, columns: int) -> tuple[IndexArray, IndexArray]:
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


@compile_kernel
def find_frontiers(
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


@compile_kernel
def renumber(
    indptr: IndexArray, indices: IndexArray, order: IndexArray, local: IndexArray, loops: bool = False
) -> tuple[IndexArray, IndexArray]:
    """CSR of the rows `order`, their entries in the ids of `local`, in the order in which they were.

    With `loops`, exactly one self-loop a row stands at its end; any other is left out.
    """
    most = 0
    for i in range(len(order)):
        most += indptr[order[i] + 1] - indptr[order[i]] + loops
    start = np.empty(len(order) + 1, dtype=indptr.dtype)
    entries = np.empty(most, dtype=indices.dtype)
    start[0] = at = 0
    for i in range(len(order)):
        v = order[i]
        for e in range(indptr[v], indptr[v + 1]):
            if not loops or indices[e] != v:
                entries[at] = local[indices[e]]
                at += 1
        if loops:
            entries[at] = i
            at += 1
        start[i + 1] = at
    return start, entries[:at]


@compile_kernel
def find_ends_below(start: IndexArray, indices: IndexArray, rows: int, bound: int) -> IndexArray:
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


@compile_kernel
def transpose_with_places(
    indptr: IndexArray, indices: IndexArray, columns: int
) -> tuple[IndexArray, IndexArray, IndexArray]:
    """CSR of the transpose, and where each of its entries stands in the structure, (E,)."""
    start = np.zeros(columns + 1, dtype=indptr.dtype)
    for e in range(len(indices)):
        start[indices[e] + 1] += 1
    for c in range(columns):
        start[c + 1] += start[c]
    free = start[:-1].copy()
    rows = np.empty_like(indices)
    places = np.empty(len(indices), dtype=indptr.dtype)
    for r in range(len(indptr) - 1):
        for e in range(indptr[r], indptr[r + 1]):
            c = indices[e]
            rows[free[c]] = r
            places[free[c]] = e
            free[c] += 1
    return start, rows, places
