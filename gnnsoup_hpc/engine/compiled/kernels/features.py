"""Products with features of which most are zero: rows of a CSR matrix, (n, F)."""

from __future__ import annotations

from typing import Any

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import IndexArray


@compile_kernel
def write_products(
    first: int, last: int, start: IndexArray, indices: IndexArray, values: Any, weights: Any, out: Any
) -> None:
    """out[r] = sum over values v of row r, each of a feature f, of v * weights[f], for r from `first` to `last` - 1.

    Shapes: weights (F, C), out (last or more, C).
    """
    for r in range(first, last):
        total = out[r]
        for j in range(len(total)):
            total[j] = 0
        for e in range(start[r], start[r + 1]):
            value, row = values[e], weights[indices[e]]
            for j in range(len(total)):
                total[j] += value * row[j]


@compile_kernel
def add_gradients(
    first: int, last: int, start: IndexArray, indices: IndexArray, values: Any, grad: Any, out: Any
) -> None:
    """Add to out[f], for each value v of a feature f in row r, v * grad[r - first]: the gradient of the weights above.

    Shapes: grad (last - first, C), out (F, C).
    """
    for r in range(first, last):
        row = grad[r - first]
        for e in range(start[r], start[r + 1]):
            value, total = values[e], out[indices[e]]
            for j in range(len(row)):
                total[j] += value * row[j]
