"""Sums along the rows of a CSR structure."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel, compile_reassociating
from gnnsoup_hpc.engine.compiled.kernels.structure import holds
from gnnsoup_hpc.types import IndexArray, IntArray


@compile_kernel
def write_scaled_sums(
    first: int,
    last: int,
    start: IndexArray,
    end: IndexArray,
    indices: IndexArray,
    values: Any,
    row_scale: Any,
    column_scale: Any,
    x: Any,
    out: Any,
    add: bool,
) -> None:
    """out[r - first] = row_scale[r] * sum over entries e of row r of column_scale[c] * x[c], with c = indices[e].

    The entries of row r are start[r] to end[r] - 1. A scale of length 0 is 1 everywhere.
    values: of each entry, in place of column_scale; of length 0 where entries have none.
    `add` adds to what is there; where rows are scaled, that is too.
    """
    for r in range(first, last):
        total = out[r - first]
        if not add:
            for j in range(len(total)):
                total[j] = 0
        # Three kernels, and no factor that may be 1: a choice inside the loop over entries made it 1.4 times as slow.
        if len(values) > 0:
            _add_weighted_row(start[r], end[r], indices, values, x, total)
        elif len(column_scale) > 0:
            _add_scaled_row(start[r], end[r], indices, column_scale, x, total)
        else:
            _add_row(start[r], end[r], indices, x, total)
        if len(row_scale) > 0:
            scale = row_scale[r]
            for j in range(len(total)):
                total[j] *= scale


@compile_kernel
def _add_row(start: int, end: int, indices: IndexArray, x: Any, total: Any) -> None:
    """Add to `total` the rows of x of entries; four at a time: a quarter of the traffic to and from `total`."""
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
def _add_scaled_row(start: int, end: int, indices: IndexArray, scale: Any, x: Any, total: Any) -> None:
    """The same of rows times their scale."""
    width = x.shape[1]
    e = start
    while e + 4 <= end:
        a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
        p, q, s, t = scale[a], scale[b], scale[c], scale[d]
        for j in range(width):
            total[j] += ((p * x[a, j] + q * x[b, j]) + s * x[c, j]) + t * x[d, j]
        e += 4
    while e < end:
        a = indices[e]
        p = scale[a]
        for j in range(width):
            total[j] += p * x[a, j]
        e += 1


@compile_kernel
def _add_weighted_row(start: int, end: int, indices: IndexArray, values: Any, x: Any, total: Any) -> None:
    """The same of rows times their entry's value."""
    width = x.shape[1]
    e = start
    while e + 4 <= end:
        a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
        p, q, s, t = values[e], values[e + 1], values[e + 2], values[e + 3]
        for j in range(width):
            total[j] += ((p * x[a, j] + q * x[b, j]) + s * x[c, j]) + t * x[d, j]
        e += 4
    while e < end:
        a = indices[e]
        p = values[e]
        for j in range(width):
            total[j] += p * x[a, j]
        e += 1


# ---- first
# The first hop of GraphSAGE and GCN: what the first weights multiply, of chosen rows, in one pass.


@compile_kernel
def count_looped_degrees(indptr: IndexArray, indices: IndexArray, first_node: int) -> IndexArray:
    """In-degrees with exactly one self-loop a node, (rows,), of the rows of nodes from `first_node` on.

    The first entry is indptr[0], wherever the row lies in the whole structure.
    """
    base = indptr[0]
    degree = np.empty(len(indptr) - 1, dtype=indptr.dtype)
    for r in range(len(degree)):
        count = 1
        for e in range(indptr[r] - base, indptr[r + 1] - base):
            count += indices[e] != r + first_node
        degree[r] = count
    return degree


@compile_kernel
def sum_looped_weights(indptr: IndexArray, indices: IndexArray, weights: Any, first_node: int) -> Any:
    """Sums of the weights of rows, as above, (rows,): a self-loop that is there keeps its weight, another weighs 1."""
    base = indptr[0]
    sums = np.empty(len(indptr) - 1, dtype=weights.dtype)
    for r in range(len(sums)):
        total, missing = 0.0, 1.0
        for e in range(indptr[r] - base, indptr[r + 1] - base):
            total += weights[e]
            if indices[e] == r + first_node:
                missing = 0.0
        sums[r] = total + missing
    return sums


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
        _add_row(indptr[v], indptr[v + 1], indices, x, total)
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
def write_normalised_sums(
    first: int, last: int, order: IndexArray, indptr: IndexArray, indices: IndexArray, scale: Any, x: Any, out: Any
) -> None:
    """out[i] = scale[v] * sum of scale[c] * x[c] over v and its in-neighbours c, v = order[i]; v once alone."""
    width = x.shape[1]
    for i in range(first, last):
        v = order[i]
        total = out[i]
        factor = scale[v]
        own = not holds(indices, indptr[v], indptr[v + 1], v)  # or it comes with the entries
        for j in range(width):
            total[j] = factor * x[v, j] if own else 0
        _add_scaled_row(indptr[v], indptr[v + 1], indices, scale, x, total)
        for j in range(width):
            total[j] *= factor


@compile_kernel
def write_weighted_sums(
    first: int, last: int, order: IndexArray, indptr: IndexArray, indices: IndexArray, values: Any, x: Any, out: Any
) -> None:
    """out[i] = sum over entries e of v of values[e] * x[indices[e]], v = order[i]; beside it x[v], if there is room."""
    width = x.shape[1]
    for i in range(first, last):
        v = order[i]
        total = out[i]
        for j in range(width):
            total[j] = 0
        _add_weighted_row(indptr[v], indptr[v + 1], indices, values, x, total)
        for j in range(out.shape[1] - width):
            total[width + j] = x[v, j]


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


# ---- mixing
# Mixtures of rows of weights, and the inner products that are their gradients, in one pass over the rows.


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
