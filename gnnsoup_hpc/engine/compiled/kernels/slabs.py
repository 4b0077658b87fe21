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
def gather(
    indptr: IntArray,
    indices: IndexArray,
    needed: ByteArray,
    base: int,
    rank: IndexArray,
    loops: bool,
    row: int,
    start: IntArray,
    entries: IndexArray,
) -> int:
    """Append the needed rows of a piece to a CSR structure that has `row` rows so far; the rows that it has then.

    Entry c becomes rank[c] (c itself where rank is empty), in rising order. With `loops` each row gets exactly one
    entry of its own node, base + its number in the piece.
    """
    at = start[row]
    for r in range(len(needed)):
        if not needed[r]:
            continue
        own = base + r
        owed = loops
        for e in range(indptr[r] - indptr[0], indptr[r + 1] - indptr[0]):
            c = indices[e]
            if owed and c >= own:
                entries[at] = rank[own] if len(rank) > 0 else own
                at += 1
                owed = False
            if not (loops and c == own):
                entries[at] = rank[c] if len(rank) > 0 else c
                at += 1
        if owed:
            entries[at] = rank[own] if len(rank) > 0 else own
            at += 1
        row += 1
        start[row] = at
    return row


@compile_kernel
def add(
    first: int,
    last: int,
    cursor: IntArray,
    end: IntArray,
    entries: IndexArray,
    scale: Any,
    low: int,
    high: int,
    x: Any,
    total: Any,
) -> None:
    """total[r, :width] += sum of scale[c] * x[c - low] over the entries c below `high` that row r has left.

    x (high - low, width) is a slab; cursor moves to the first entry of the next one. An empty scale is 1 everywhere.
    """
    width = x.shape[1]
    one = x.dtype.type(1)
    for r in range(first, last):
        row = total[r]
        e, stop = cursor[r], end[r]
        while e + 4 <= stop and entries[e + 3] < high:
            a, b, c, d = entries[e], entries[e + 1], entries[e + 2], entries[e + 3]
            p, q, s, t = one, one, one, one
            if len(scale) > 0:
                p, q, s, t = scale[a], scale[b], scale[c], scale[d]
            a, b, c, d = a - low, b - low, c - low, d - low
            for j in range(width):
                row[j] += ((p * x[a, j] + q * x[b, j]) + s * x[c, j]) + t * x[d, j]
            e += 4
        while e < stop and entries[e] < high:
            a = entries[e]
            p = scale[a] if len(scale) > 0 else one
            a -= low
            for j in range(width):
                row[j] += p * x[a, j]
            e += 1
        cursor[r] = e
