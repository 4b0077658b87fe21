"""Mixtures of rows of weights, and the inner products that are their gradients, in one pass over the rows."""

from __future__ import annotations

from typing import Any

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel, compile_reassociating
from gnnsoup_hpc.types import IntArray


@compile_kernel
def mix(alpha: Any, weights: Any, bounds: IntArray, row: Any) -> None:
    """row[j] = sum over i of alpha[g, i] * weights[i, j], in i's order, for j from bounds[g] to bounds[g + 1] - 1.

    Shapes: alpha (G, N), weights (N, P), bounds (G + 1,), row (P,).
    """
    for g in range(len(bounds) - 1):
        first, last = bounds[g], bounds[g + 1]
        for j in range(first, last):
            row[j] = 0
        for i in range(len(weights)):
            share = alpha[g, i]
            ingredient = weights[i]
            for j in range(first, last):
                row[j] += share * ingredient[j]


@compile_reassociating
def inner_products(grad: Any, weights: Any, bounds: IntArray, out: Any) -> None:
    """out[g, i] = sum over j of grad[j] * weights[i, j], j from bounds[g] to bounds[g + 1] - 1, in out's precision."""
    for g in range(len(bounds) - 1):
        for i in range(len(weights)):
            ingredient = weights[i]
            total = out.dtype.type(0)
            for j in range(bounds[g], bounds[g + 1]):
                total += out.dtype.type(grad[j]) * out.dtype.type(ingredient[j])
            out[g, i] = total
