"""GAT's kernels for numbers of entries: weights, and gradients of the scores that they come from.

A score is leaky_relu(source[i] + destination[r]), a weight exp(score - level[r]) with level the logarithm of the sum of
exp(score) over the row. Here a program has one row, and a number of each entry and head. Channels are summed up by
kernels.sum_rows, with the weights that are made here.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnsoup_hpc.engine.triton import kernels
from gnnsoup_hpc.engine.triton.kernels import Csr, Draws, Weights, derive_key, draw, name_sums

_NUMBERS = 128  # of entries and heads that a program has in flight


@triton.jit
def _find_levels(
    start, end, indices, source, destination, level, slope,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, WIDTH)
    first, last = tl.load(start + r).to(tl.int64), tl.load(end + r).to(tl.int64)
    own = tl.load(destination + r * HEADS + h, mask=h < HEADS, other=0.0)
    top = tl.full([ENTRIES, WIDTH], -3.0e38, ACC)
    total = tl.zeros([ENTRIES, WIDTH], ACC)
    for e in range(first, last, ENTRIES):
        k = e + tl.arange(0, ENTRIES)
        i = tl.load(indices + k, mask=k < last, other=0).to(tl.int64)
        there = (k < last)[:, None] & (h < HEADS)[None, :]
        s = tl.load(source + i[:, None] * HEADS + h[None, :], mask=there, other=0.0) + own[None, :]
        s = tl.where(s > 0.0, s, s * slope)
        higher = tl.where(there, tl.maximum(top, s), top)
        total = total * tl.exp(top - higher) + tl.where(there, tl.exp(s - higher), 0.0)
        top = higher
    highest = tl.max(top, 0)
    found = highest + tl.log(tl.sum(total * tl.exp(top - highest[None, :]), 0))
    tl.store(level + r * HEADS + h, found, mask=h < HEADS)


def find_levels(csr: Csr, source: Tensor, destination: Tensor, slope: float) -> Tensor:
    """Levels of rows, (R, H); every row has an entry. Shapes: source (U, H), destination (R, H)."""
    level = torch.empty_like(destination)
    if csr.rows:
        _find_levels[csr.rows,](
            csr.start, csr.end, csr.indices, source, destination, level, slope, **_choose_shape(source)
        )
    return level


@triton.jit
def _weigh(
    start, end, indices, source, destination, level, nodes, draws, weights, slope, scale,
    DROP: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, WIDTH)
    first, last = tl.load(start + r).to(tl.int64), tl.load(end + r).to(tl.int64)
    own = tl.load(destination + r * HEADS + h, mask=h < HEADS, other=0.0)
    of_all = tl.load(level + r * HEADS + h, mask=h < HEADS, other=0.0)
    for e in range(first, last, ENTRIES):
        k = e + tl.arange(0, ENTRIES)
        i = tl.load(indices + k, mask=k < last, other=0).to(tl.int64)
        there = (k < last)[:, None] & (h < HEADS)[None, :]
        s = tl.load(source + i[:, None] * HEADS + h[None, :], mask=there, other=0.0) + own[None, :]
        w = tl.exp(tl.where(s > 0.0, s, s * slope) - of_all[None, :])
        if DROP:
            of_row = derive_key(tl.load(draws).to(tl.uint64), tl.load(nodes + r))
            one = derive_key(of_row, tl.load(nodes + i, mask=k < last, other=0))
            drawn = draw(one[:, None], h[None, :])
            w = tl.where(drawn >= tl.load(draws + 1).to(tl.uint32), w * scale, 0.0)
        tl.store(weights + k[:, None] * HEADS + h[None, :], w, mask=there)


def weigh(csr: Csr, source: Tensor, destination: Tensor, level: Tensor, slope: float, draws: Draws | None) -> Weights:
    """Weights of entries after dropout, (E, H), float32 or float64. draws: of dropout, by both ends of an entry."""
    weights = source.new_empty(len(csr.indices), source.shape[1])
    if csr.rows:
        _weigh[csr.rows,](
            *(
                csr.start,
                csr.end,
                csr.indices,
                source,
                destination,
                level,
                draws and draws.nodes,
                draws and draws.draws,
            ),
            *(weights, slope, draws.scale if draws else 1.0),
            **_choose_shape(source),
            DROP=draws is not None,
        )
    return Weights(weights)


@triton.jit
def _dot(
    start, end, indices, of, weights, x, grad, out, channels, x_stride, grad_stride,
    PIECES: tl.constexpr, LONG: tl.constexpr, HEADS: tl.constexpr, ACC: tl.constexpr, ENTRIES: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inner = tl.arange(0, CHANNELS)
    inside = inner < channels
    c = h * channels + inner
    first, last = tl.load(start + n).to(tl.int64), tl.load(end + n).to(tl.int64)
    if LONG > 0:
        last = tl.where(last - first <= LONG, last, first)
    r = n
    if PIECES:
        r = tl.load(of + n).to(tl.int64)
    mine = tl.load(grad + r * grad_stride + c, mask=inside, other=0.0).to(ACC)
    k = first + tl.arange(0, ENTRIES)
    i = tl.load(indices + k, mask=k < last, other=0).to(tl.int64)
    for e in range(first, last, ENTRIES):
        k = e + tl.arange(0, ENTRIES)
        there = k < last
        v = tl.load(x + i[:, None] * x_stride + c[None, :], mask=there[:, None] & inside[None, :], other=0.0).to(ACC)
        i = tl.load(indices + k + ENTRIES, mask=k + ENTRIES < last, other=0).to(tl.int64)
        w = tl.load(weights + k * HEADS + h, mask=there, other=0.0)
        tl.store(out + k * HEADS + h, w * tl.sum(v * mine[None, :], 1), mask=there)


def multiply_entries(csr: Csr, weights: Weights, x: Tensor, grad: Tensor) -> Tensor:
    """Weight * <grad[r, h], x[i, h]> of every entry and head, (E, H). Shapes: x (U, H C), grad (R, H C)."""
    heads, pieces = weights.values.shape[1], csr.pieces
    channels = x.shape[1] // heads
    out = torch.empty_like(weights.values)
    every: list[tuple[Tensor, Tensor, Tensor | None, int]]
    every = [(csr.start, csr.end, None, kernels.LONG if pieces else 0)]
    every += [(pieces.start, pieces.end, pieces.row, 0)] if pieces else []
    for start, end, of, long in every:
        if len(start):
            _dot[len(start), heads](
                *(start, end, csr.indices, of, weights.values, x, grad, out, channels, x.stride(0), grad.stride(0)),
                PIECES=of is not None,
                LONG=long,
                HEADS=heads,
                ACC=name_sums(x),
                ENTRIES=kernels.ENTRIES,
                CHANNELS=triton.next_power_of_2(channels),
                num_warps=1,
            )
    return out


@triton.jit
def _differentiate(
    start, end, indices, source, destination, level, inner, grads, out, slope, out_stride,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, WIDTH)
    first, last = tl.load(start + r).to(tl.int64), tl.load(end + r).to(tl.int64)
    own = tl.load(destination + r * HEADS + h, mask=h < HEADS, other=0.0)
    of_all = tl.load(level + r * HEADS + h, mask=h < HEADS, other=0.0)
    common = tl.load(inner + r * HEADS + h, mask=h < HEADS, other=0.0)
    found = tl.zeros([ENTRIES, WIDTH], ACC)
    for e in range(first, last, ENTRIES):
        k = e + tl.arange(0, ENTRIES)
        i = tl.load(indices + k, mask=k < last, other=0).to(tl.int64)
        there = (k < last)[:, None] & (h < HEADS)[None, :]
        s = tl.load(source + i[:, None] * HEADS + h[None, :], mask=there, other=0.0) + own[None, :]
        w = tl.exp(tl.where(s > 0.0, s, s * slope) - of_all[None, :])
        d = tl.load(grads + k[:, None] * HEADS + h[None, :], mask=there, other=0.0) - w * common[None, :]
        d = tl.where(there, tl.where(s > 0.0, d, d * slope), 0.0)
        tl.store(grads + k[:, None] * HEADS + h[None, :], d, mask=there)
        found += d
    tl.store(out + r * out_stride + h, tl.sum(found, 0), mask=h < HEADS)


def differentiate_scores(
    csr: Csr,
    source: Tensor,
    destination: Tensor,
    level: Tensor,
    inner: Tensor,
    grads: Tensor,
    slope: float,
    out: Tensor,
) -> None:
    """From `multiply_entries`, in place, the gradients of source + destination of every entry, (E, H).

    out (R, H), whose rows may be apart: their sums along rows. inner (R, H): <grad, sums> of each row and head.
    """
    if csr.rows:
        _differentiate[csr.rows,](
            *(csr.start, csr.end, csr.indices, source, destination, level, inner, grads, out, slope, out.stride(0)),
            **_choose_shape(source),
        )


@triton.jit
def _gather(
    start, end, places, values, out, out_stride,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, WIDTH)
    first, last = tl.load(start + r).to(tl.int64), tl.load(end + r).to(tl.int64)
    found = tl.zeros([ENTRIES, WIDTH], ACC)
    for e in range(first, last, ENTRIES):
        k = e + tl.arange(0, ENTRIES)
        at = tl.load(places + k, mask=k < last, other=0).to(tl.int64)
        there = (k < last)[:, None] & (h < HEADS)[None, :]
        found += tl.load(values + at[:, None] * HEADS + h[None, :], mask=there, other=0.0)
    tl.store(out + r * out_stride + h, tl.sum(found, 0), mask=h < HEADS)


def sum_entries(transpose: Csr, places: Tensor, values: Tensor, out: Tensor) -> None:
    """Sums of values (E, H) along the transpose's rows, out (U, H), whose rows may be apart."""
    if transpose.rows:
        _gather[transpose.rows,](
            transpose.start, transpose.end, places, values, out, out.stride(0), **_choose_shape(values)
        )


@triton.jit
def _inner(
    grad, x, out, channels, grad_stride, x_stride, HEADS: tl.constexpr, ACC: tl.constexpr, CHANNELS: tl.constexpr
):
    r, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.arange(0, CHANNELS)
    one = tl.load(grad + r * grad_stride + h * channels + c, mask=c < channels, other=0.0).to(ACC)
    two = tl.load(x + r * x_stride + h * channels + c, mask=c < channels, other=0.0).to(ACC)
    tl.store(out + r * HEADS + h, tl.sum(one * two, 0))


def multiply_rows(grad: Tensor, x: Tensor, heads: int) -> Tensor:
    """<grad[r, h], x[r, h]>, (R, H), of grad and x (R, H C)."""
    channels = x.shape[1] // heads
    out = torch.empty(len(x), heads, dtype=kernels.choose_sums(x), device=x.device)
    if len(x):
        _inner[len(x), heads](
            *(grad, x, out, channels, grad.stride(0), x.stride(0)),
            HEADS=heads,
            ACC=name_sums(x),
            CHANNELS=triton.next_power_of_2(channels),
            num_warps=1,
        )
    return out


def _choose_shape(x: Tensor) -> dict[str, Any]:
    width = triton.next_power_of_2(x.shape[1])
    entries = max(16, _NUMBERS // width)
    return {"HEADS": x.shape[1], "WIDTH": width, "ACC": name_sums(x), "ENTRIES": entries, "num_warps": 1}
