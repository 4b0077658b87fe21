"""GAT's attention along the rows of a CSR structure (arXiv 1710.10903): weights of entries, sums, gradients.

Entries e of row r are start[r] to end[r] - 1 (end[r] = start[r + 1] where a kernel has no `end`), their columns
c = indices[e]. H heads. scores (columns, 2 H): of each node as a source, H, and as a destination, H. A matrix x of
(columns, H, C) has rows of its own for each head, of (columns, 1, C) the same for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel, compile_reassociating
from gnnsoup_hpc.types import IndexArray


@compile_kernel
def write_edge_weights(
    first: int,
    last: int,
    start: IndexArray,
    indices: IndexArray,
    scores: Any,
    slope: float,
    weights: Any,
    shift: int,
) -> None:
    """weights[e - shift, h] = softmax over row r of leaky_relu(scores[c, h] + scores[r, H + h], slope)."""
    heads = weights.shape[1]
    zero = scores.dtype.type(0)
    leak = scores.dtype.type(slope)
    for r in range(first, last):
        begin, stop = start[r] - shift, start[r + 1] - shift
        for h in range(heads):
            own = scores[r, heads + h]
            top = scores.dtype.type(-np.inf)
            for e in range(begin, stop):
                score = scores[indices[e + shift], h] + own
                score = score if score > zero else leak * score
                weights[e, h] = score
                top = max(top, score)
            total = zero
            for e in range(begin, stop):
                weights[e, h] = np.exp(weights[e, h] - top)
                total += weights[e, h]
            for e in range(begin, stop):
                weights[e, h] /= total


@compile_kernel
def _add_rows(
    begin: int, stop: int, indices: IndexArray, places: IndexArray, weights: Any, shift: int, x: Any, total: Any
) -> None:
    """total[h] (C,) += sum over e of weights[places[e] or e - shift, h] * x[indices[e], h or 0]."""
    heads, width = total.shape
    apart, placed = x.shape[1] > 1, len(places) > 0
    e = begin
    while e + 4 <= stop:  # four rows of x at a time: a quarter of the traffic to and from `total`
        a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
        i, j, k, m = e - shift, e + 1 - shift, e + 2 - shift, e + 3 - shift
        if placed:
            i, j, k, m = places[e], places[e + 1], places[e + 2], places[e + 3]
        for h in range(heads):
            g = h if apart else 0
            p, q, s, t = weights[i, h], weights[j, h], weights[k, h], weights[m, h]
            xa, xb, xc, xd, row = x[a, g], x[b, g], x[c, g], x[d, g], total[h]
            for n in range(width):
                row[n] += ((p * xa[n] + q * xb[n]) + s * xc[n]) + t * xd[n]
        e += 4
    while e < stop:
        i = places[e] if placed else e - shift
        for h in range(heads):
            p, xa, row = weights[i, h], x[indices[e], h if apart else 0], total[h]
            for n in range(width):
                row[n] += p * xa[n]
        e += 1


@compile_kernel
def write_head_sums(
    first: int,
    last: int,
    start: IndexArray,
    end: IndexArray,
    indices: IndexArray,
    places: IndexArray,
    weights: Any,
    shift: int,
    x: Any,
    out: Any,
) -> None:
    """out[r - first, h] = sum over entries e of row r of weights[places[e], h] * x[c, h].

    Without places (length 0) the weight of entry e is weights[e - shift].
    """
    for r in range(first, last):
        total = out[r - first]
        total[:] = 0
        _add_rows(start[r], end[r], indices, places, weights, shift, x, total)


@compile_reassociating
def _dots(begin: int, stop: int, indices: IndexArray, x: Any, grad: Any, out: Any) -> None:
    """out[e, h] = <grad[h or 0], x[c, h or 0]> of the entries of one row."""
    zero = grad.dtype.type(0)
    apart, common = x.shape[1] > 1, grad.shape[0] == 1
    for e in range(begin, stop - 3, 4):  # four rows of x at a time: a quarter of the reads of `grad`
        a, b, c, d = indices[e], indices[e + 1], indices[e + 2], indices[e + 3]
        for h in range(out.shape[1]):
            g = h if apart else 0
            xa, xb, xc, xd, row = x[a, g], x[b, g], x[c, g], x[d, g], grad[0 if common else h]
            p, q, s, t = zero, zero, zero, zero
            for n in range(len(row)):
                p += row[n] * xa[n]
                q += row[n] * xb[n]
                s += row[n] * xc[n]
                t += row[n] * xd[n]
            out[e, h], out[e + 1, h], out[e + 2, h], out[e + 3, h] = p, q, s, t
    for e in range(stop - (stop - begin) % 4, stop):
        for h in range(out.shape[1]):
            xa, row = x[indices[e], h if apart else 0], grad[0 if common else h]
            p = zero
            for n in range(len(row)):
                p += row[n] * xa[n]
            out[e, h] = p


@compile_kernel
def write_score_gradients(
    first: int,
    last: int,
    start: IndexArray,
    indices: IndexArray,
    scores: Any,
    slope: float,
    weights: Any,
    dropped: Any,
    scale: float,
    x: Any,
    grad: Any,
    of_scores: Any,
    of_rows: Any,
    sums: Any,
) -> None:
    """Backward through the weighted sums, dropout, the softmax and the leaky ReLU of rows, given the sums' gradient.

    dropped (E, H): the weights after dropout, which multiplies those that it keeps by `scale`; `weights` with 1 where
    there is none. grad (last - first, H or 1, C). of_scores (E, H): gradients of what the leaky ReLU was given; of_rows
    (rows, H): their sums along rows. `sums` (last - first, H, C), if not of length 0, gets the weighted sums again.
    """
    heads = weights.shape[1]
    zero = scores.dtype.type(0)
    leak, factor = scores.dtype.type(slope), scores.dtype.type(scale)
    for r in range(first, last):
        begin, stop = start[r], start[r + 1]
        _dots(begin, stop, indices, x, grad[r - first], of_scores)
        for h in range(heads):
            mean = zero
            if scale != 1.0:
                for e in range(begin, stop):
                    of_scores[e, h] *= factor if dropped[e, h] > zero else zero
            for e in range(begin, stop):
                mean += weights[e, h] * of_scores[e, h]
            own, total = scores[r, heads + h], zero
            for e in range(begin, stop):
                slope_here = weights[e, h] * (of_scores[e, h] - mean)
                if not scores[indices[e], h] + own > zero:
                    slope_here *= leak
                of_scores[e, h] = slope_here
                total += slope_here
            of_rows[r, h] = total
        if len(sums) > 0:
            total_row = sums[r - first]
            total_row[:] = 0
            _add_rows(begin, stop, indices, indices[:0], dropped, 0, x, total_row)


@compile_kernel
def write_placed_sums(
    first: int, last: int, start: IndexArray, end: IndexArray, places: IndexArray, x: Any, out: Any
) -> None:
    """out[r - first, h] = sum over entries e of row r of x[places[e], h], of the H columns of x (E, H)."""
    heads = x.shape[1]
    for r in range(first, last):
        for h in range(heads):
            total = x.dtype.type(0)
            for e in range(start[r], end[r]):
                total += x[places[e], h]
            out[r - first, h] = total
