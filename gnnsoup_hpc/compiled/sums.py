"""Sums along the rows of a CSR structure."""

from __future__ import annotations

from typing import Any

from gnnsoup_hpc.compiled.base import compiled
from gnnsoup_hpc.records import IndexArray


@compiled
def _scale(scale: Any, i: int, x: Any) -> Any:
    return scale[i] if len(scale) > 0 else x.dtype.type(1)


@compiled
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
