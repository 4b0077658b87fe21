"""The first hop of GraphSAGE and GCN: what the first weights multiply, of chosen rows, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import IndexArray, IntArray


@compile_kernel
def count_looped_degrees(indptr: IndexArray, indices: IndexArray, first_node: int) -> IndexArray:
    """In-degrees with exactly one self-loop a node, (rows,), of the rows of nodes from `first_node` on."""
    degree = np.empty(len(indptr) - 1, dtype=indptr.dtype)
    for r in range(len(degree)):
        count = 1
        for e in range(indptr[r], indptr[r + 1]):
            count += indices[e] != r + first_node
        degree[r] = count
    return degree


@compile_kernel
def write_means_beside_own(
    first: int, last: int, order: IndexArray, indptr: IndexArray, indices: IndexArray, scale: Any, x: Any, out: Any
) -> None:
    """out[i] = [scale[v] * sum of x over in-neighbours of v | x[v]], v = order[i], for i from `first` to `last` - 1.

    `out` is whole and not its left half, for the compiler makes vectors of rows only where it knows them to be dense.
    """
    width = x.shape[1]
    for i in range(first, last):
        v = order[i]
        total = out[i]
        for j in range(width):
            total[j] = 0
        e, stop = indptr[v], indptr[v + 1]
        while e + 4 <= stop:  # four rows of x at a time: a quarter of the traffic to and from `total`
            a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
            for j in range(width):
                total[j] += ((x[a, j] + x[b, j]) + x[c, j]) + x[d, j]
            e += 4
        while e < stop:
            a = indices[e]
            for j in range(width):
                total[j] += x[a, j]
            e += 1
        factor = scale[v]
        for j in range(width):
            total[j] *= factor
            total[width + j] = x[v, j]


@compile_kernel
def copy_side_by_side(first: int, last: int, order: IndexArray, left: Any, right: Any, out: Any) -> None:
    """out[i] = [left[v] | right[v]], v = order[i], for i from `first` to `last` - 1; right may have no columns."""
    width = left.shape[1]
    for i in range(first, last):
        v = order[i]
        row = out[i]
        for j in range(width):
            row[j] = left[v, j]
        for j in range(right.shape[1]):
            row[width + j] = right[v, j]


@compile_kernel
def _holds(indices: IndexArray, start: int, stop: int, node: int) -> bool:
    found = False
    for e in range(start, stop):
        found |= indices[e] == node
    return found


@compile_kernel
def write_normalised_sums(
    first: int, last: int, order: IndexArray, indptr: IndexArray, indices: IndexArray, scale: Any, x: Any, out: Any
) -> None:
    """out[i] = scale[v] * sum of scale[c] * x[c] over v and its in-neighbours c, v = order[i]; v once alone."""
    width = x.shape[1]
    for i in range(first, last):
        v = order[i]
        total = out[i]
        factor = scale[v]
        e, stop = indptr[v], indptr[v + 1]
        own = not _holds(indices, e, stop, v)  # or it comes with the entries
        for j in range(width):
            total[j] = factor * x[v, j] if own else 0
        while e + 4 <= stop:
            a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
            p, q, s, t = scale[a], scale[b], scale[c], scale[d]
            for j in range(width):
                total[j] += ((p * x[a, j] + q * x[b, j]) + s * x[c, j]) + t * x[d, j]
            e += 4
        while e < stop:
            a = indices[e]
            p = scale[a]
            for j in range(width):
                total[j] += p * x[a, j]
            e += 1
        for j in range(width):
            total[j] *= factor


@compile_kernel
def add_slab_sums(
    first: int,
    last: int,
    cursor: IntArray,
    end: IntArray,
    indices: IndexArray,
    low: int,
    high: int,
    scale: Any,
    x: Any,
    out: Any,
) -> None:
    """Add to out[r] the scale[c - low] * x[c - low] of its in-neighbours low <= c < high, for rows first to last - 1.

    Shapes: cursor, end (rows,): the entries of row r that are still to come, in rising order; the cursor moves past
    those that are added. scale (high - low,), x (high - low, F), out (rows, F).
    """
    width = x.shape[1]
    for r in range(first, last):
        total = out[r]
        e, stop = cursor[r], end[r]
        while e < stop and indices[e] < high:
            a = indices[e] - low
            p = scale[a]
            for j in range(width):
                total[j] += p * x[a, j]
            e += 1
        cursor[r] = e
