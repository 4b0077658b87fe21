"""Sums over a matrix that comes slab by slab: what inference layer by layer computes with."""

from __future__ import annotations

from typing import Any

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import ByteArray, IndexArray, IntArray


@compile_kernel
def mark(indptr: IntArray, indices: IndexArray, needed: ByteArray, reached: ByteArray) -> None:
    """Set reached[c] for every entry c of the rows that are needed; needed (rows,), reached (V,)."""
    for r in range(len(needed)):
        if needed[r]:
            for e in range(indptr[r] - indptr[0], indptr[r + 1] - indptr[0]):
                reached[indices[e]] = 1


@compile_kernel
def add(
    first: int,
    last: int,
    cursor: IntArray,
    end: IntArray,
    entries: IndexArray,
    values: Any,
    scale: Any,
    low: int,
    high: int,
    x: Any,
    total: Any,
) -> None:
    """total[r, :width] += sum of scale[c] * x[c - low] over the entries c below `high` that row r has left.

    x (high - low, width) is a slab; cursor moves to the first entry of the next one. An empty scale is 1 everywhere.
    values: of each entry, in place of its column's scale; of length 0 where entries have none.
    """
    width = x.shape[1]
    one = x.dtype.type(1)
    for r in range(first, last):
        row = total[r]
        e, stop = cursor[r], end[r]
        while e + 4 <= stop and entries[e + 3] < high:
            a, b, c, d = entries[e], entries[e + 1], entries[e + 2], entries[e + 3]
            p, q, s, t = one, one, one, one
            if len(values) > 0:
                p, q, s, t = values[e], values[e + 1], values[e + 2], values[e + 3]
            elif len(scale) > 0:
                p, q, s, t = scale[a], scale[b], scale[c], scale[d]
            a, b, c, d = a - low, b - low, c - low, d - low
            for j in range(width):
                row[j] += ((p * x[a, j] + q * x[b, j]) + s * x[c, j]) + t * x[d, j]
            e += 4
        while e < stop and entries[e] < high:
            a = entries[e]
            p = one
            if len(values) > 0:
                p = values[e]
            elif len(scale) > 0:
                p = scale[a]
            a -= low
            for j in range(width):
                row[j] += p * x[a, j]
            e += 1
        cursor[r] = e
