"""Sums along the rows of a CSR structure."""

from __future__ import annotations

from typing import Any

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import IndexArray


@compile_kernel
def write_scaled_sums(
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
    add: bool,
) -> None:
    """out[r - shift] = row_scale[r] * sum over entries e of row r of column_scale[c] * x[c], with c = indices[e].

    The entries of row r are start[r] to end[r] - 1. A scale of length 0 is 1 everywhere.
    `add` adds to what is there; where rows are scaled, that is too.
    """
    weighted = len(column_scale) > 0
    for r in range(first, last):
        total = out[r - shift]
        if not add:
            for j in range(len(total)):
                total[j] = 0
        # Two kernels, not one scale that is 1 or not: a choice inside the loop over entries made it 1.4 times as slow.
        if weighted:
            _weighted_row(start[r], end[r], indices, column_scale, x, total)
        else:
            _row(start[r], end[r], indices, x, total)
        if len(row_scale) > 0:
            scale = row_scale[r]
            for j in range(len(total)):
                total[j] *= scale


@compile_kernel
def _row(start: int, end: int, indices: IndexArray, x: Any, total: Any) -> None:
    """Four rows of x at a time: a quarter of the traffic to and from `total`."""
    width = x.shape[1]
    e = start
    while e + 4 <= end:
        a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
        for j in range(width):
            total[j] += ((x[a, j] + x[b, j]) + x[c, j]) + x[d, j]
        e += 4
    while e < end:
        a = indices[e]
        for j in range(width):
            total[j] += x[a, j]
        e += 1


@compile_kernel
def _weighted_row(start: int, end: int, indices: IndexArray, weights: Any, x: Any, total: Any) -> None:
    width = x.shape[1]
    e = start
    while e + 4 <= end:
        a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
        p, q, s, t = weights[a], weights[b], weights[c], weights[d]
        for j in range(width):
            total[j] += ((p * x[a, j] + q * x[b, j]) + s * x[c, j]) + t * x[d, j]
        e += 4
    while e < end:
        a = indices[e]
        p = weights[a]
        for j in range(width):
            total[j] += p * x[a, j]
        e += 1
