"""Kernels on a GPU, written in Triton (only this folder imports it). TRITON_INTERPRET=1 runs them on a CPU, slowly.

A program computes one row, all of its entries in a fixed order; a row of more than LONG entries is cut into pieces of
as many, whose sums a second launch adds up. Nothing is added atomically, so the same input gives the same bits on one
kind of GPU and one version of Triton. Sums run in float32, or in float64 where the numbers are.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnsoup_hpc.utils import counter

LONG = 512  # entries of a row that one program sums up
ENTRIES = 16  # that a program has in flight
CHANNELS = 128  # of a program at most, of 16 bits; of 32 bits half as many, so that what is gathered stays in the cache
_THREADS = 32  # of a warp
_TILE, _PROGRAMS = 4096, 1024  # of sums of columns: numbers in flight, and programs at most

_GOLDEN, _FIRST, _SECOND = tl.constexpr(counter.GOLDEN), tl.constexpr(counter.FIRST), tl.constexpr(counter.SECOND)
_GOLDEN_32, _FIRST_32 = tl.constexpr(counter.GOLDEN_32), tl.constexpr(counter.FIRST_32)
_SECOND_32 = tl.constexpr(counter.SECOND_32)


# ---- structures


@dataclass(frozen=True)
class Pieces:
    """Long rows (m,), cut: piece p of all (k,) has the entries start[p] to end[p] - 1, row i the pieces from of[i] on.

    row: of each piece, (k,). of: (m + 1,). known: rows and `of` on the host.
    """

    rows: Tensor
    of: Tensor
    row: Tensor
    start: Tensor
    end: Tensor
    known: tuple[list[int], list[int]]

    def head(self, rows: int) -> Pieces | None:
        """Of the first so many rows of the structure; None where none of them is long."""
        count = bisect_left(self.known[0], rows)
        if not count:
            return None
        pieces = self.known[1][count]
        known = self.known[0][:count], self.known[1][: count + 1]
        return Pieces(
            self.rows[:count], self.of[: count + 1], self.row[:pieces], self.start[:pieces], self.end[:pieces], known
        )


@dataclass(frozen=True)
class Csr:
    """Row r has the entries start[r] to end[r] - 1 of indices. Shapes: start, end (R,), indices (E,)."""

    start: Tensor
    end: Tensor
    indices: Tensor
    pieces: Pieces | None

    @classmethod
    def of(cls, start: Tensor, end: Tensor, indices: Tensor) -> Csr:
        """With the pieces of its long rows; waits for the device."""
        rows = (end - start > LONG).nonzero()[:, 0]
        if not len(rows):
            return cls(start, end, indices, None)
        # By one copy to the host, and one back.
        row, first, last = torch.stack([rows, start[rows].long(), end[rows].long()]).cpu()
        counts = (last - first + LONG - 1) // LONG
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        number = torch.arange(len(row)).repeat_interleave(counts)
        begin = first[number] + LONG * (torch.arange(len(number)) - ends[number])
        made = torch.cat([ends, row[number], begin, torch.minimum(begin + LONG, last[number])]).to(rows.device)
        of, row_of, begin, stop = made.split([len(ends), *3 * [len(number)]])
        pieces = Pieces(rows, of, row_of, begin, stop, (row.tolist(), ends.tolist()))
        return cls(start, end, indices, pieces)

    def head(self, rows: int) -> Csr:
        """The first so many rows."""
        return Csr(self.start[:rows], self.end[:rows], self.indices, self.pieces and self.pieces.head(rows))

    @property
    def rows(self) -> int:
        """R."""
        return len(self.start)


@triton.jit
def _mark(rows, indptr, indices, flag, BLOCK: tl.constexpr):
    r = tl.load(rows + tl.program_id(0)).to(tl.int64)
    first, last = tl.load(indptr + r).to(tl.int64), tl.load(indptr + r + 1).to(tl.int64)
    for e in range(first, last, BLOCK):
        k = e + tl.arange(0, BLOCK)
        i = tl.load(indices + k, mask=k < last, other=0)
        tl.store(flag + i, 1, mask=k < last)


def mark_neighbours(rows: Tensor, indptr: Tensor, indices: Tensor, flag: Tensor) -> None:
    """Set flag (V,) int8 of the entries of some rows to 1."""
    if len(rows):
        _mark[len(rows),](rows, indptr, indices, flag, BLOCK=64, num_warps=1)


@triton.jit
def _count(rows, indptr, indices, place, out, limit, LOOPS: tl.constexpr, BELOW: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.load(rows + tl.program_id(0)).to(tl.int64)
    first, last = tl.load(indptr + r).to(tl.int64), tl.load(indptr + r + 1).to(tl.int64)
    found = tl.zeros([BLOCK], tl.int32)
    for e in range(first, last, BLOCK):
        k = e + tl.arange(0, BLOCK)
        kept = k < last
        i = tl.load(indices + k, mask=kept, other=0)
        if LOOPS:
            kept = kept & (i != r)
        if BELOW:
            p = tl.load(place + i, mask=kept, other=-1)
            kept = kept & (p >= 0) & (p < limit)
        found += kept.to(tl.int32)
    count = tl.sum(found, 0)
    if LOOPS:
        loop = 1
        if BELOW:
            loop = (tl.load(place + r) < limit).to(tl.int32)
        count += loop
    tl.store(out + tl.program_id(0), count)


@triton.jit
def _renumber(
    rows, indptr, indices, place, start, out, limit, LOOPS: tl.constexpr, BELOW: tl.constexpr, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    r = tl.load(rows + n).to(tl.int64)
    first, last = tl.load(indptr + r).to(tl.int64), tl.load(indptr + r + 1).to(tl.int64)
    at = tl.load(start + n).to(tl.int64)
    for e in range(first, last, BLOCK):
        k = e + tl.arange(0, BLOCK)
        kept = k < last
        i = tl.load(indices + k, mask=kept, other=0)
        if LOOPS:
            kept = kept & (i != r)
        p = tl.load(place + i, mask=kept, other=-1)
        if BELOW:
            kept = kept & (p >= 0) & (p < limit)
        to = at + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(out + to, p, mask=kept)
        at += tl.sum(kept.to(tl.int32), 0)
    if LOOPS:
        p = tl.load(place + r)
        if BELOW:
            tl.store(out + at, p, mask=p < limit)
        else:
            tl.store(out + at, p)


_BLOCK = 64


def count_entries(rows: Tensor, indptr: Tensor, indices: Tensor, loops: bool) -> Tensor:
    """Entries of some rows, (n,); with `loops`, as if each had exactly one self-loop."""
    if not loops:
        return (indptr[1:] - indptr[:-1])[rows.long()]
    out = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    if len(rows):
        _count[len(rows),](*(rows, indptr, indices, None, out, 0), LOOPS=True, BELOW=False, BLOCK=_BLOCK, num_warps=1)
    return out.to(indptr.dtype)


def list_entries(rows: Tensor, indptr: Tensor) -> Tensor:
    """Where the entries of some rows stand, row after row, (n,) int64; waits for the device."""
    rows = rows.long()
    first = indptr[rows].long()
    counts = indptr[rows + 1].long() - first
    ends = counts.cumsum(0)
    shift = (first + counts - ends).repeat_interleave(counts)
    return shift.add_(torch.arange(len(shift), device=rows.device))


def renumber(
    rows: Tensor, indptr: Tensor, indices: Tensor, place: Tensor, loops: bool, below: int | None = None
) -> tuple[Tensor, Tensor]:
    """CSR of some rows, their entries in the ids of `place`, in the order in which they were; waits for the device.

    With `loops`, exactly one self-loop a row stands at its end; any other is left out. below: only entries that have a
    place from 0 to `below` - 1.
    """
    if below is None:
        counts = count_entries(rows, indptr, indices, loops)
    else:
        counts = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    limited = {"LOOPS": loops, "BELOW": below is not None, "BLOCK": _BLOCK, "num_warps": 1}
    if below is not None and len(rows):
        _count[len(rows),](rows, indptr, indices, place, counts, below, **limited)
    start = torch.zeros(len(rows) + 1, dtype=indptr.dtype, device=rows.device)
    torch.cumsum(counts, 0, out=start[1:])
    out = torch.empty(int(start[-1]), dtype=indices.dtype, device=rows.device)
    if len(rows):
        _renumber[len(rows),](rows, indptr, indices, place, start, out, below or 0, **limited)
    return start, out


@triton.jit
def _find_asymmetry(indptr, indices, out, BLOCK: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    first, last = tl.load(indptr + r).to(tl.int64), tl.load(indptr + r + 1).to(tl.int64)
    found = tl.zeros([BLOCK], tl.uint64)
    one = derive_key(tl.full([BLOCK], 1, tl.uint64), r)
    two = derive_key(tl.full([BLOCK], 2, tl.uint64), r)
    for e in range(first, last, BLOCK):
        k = e + tl.arange(0, BLOCK)
        i = tl.load(indices + k, mask=k < last, other=0)
        apart = one * derive_key(tl.full([BLOCK], 2, tl.uint64), i) - two * derive_key(
            tl.full([BLOCK], 1, tl.uint64), i
        )
        found += tl.where(k < last, apart, 0)
    tl.store(out + r, tl.sum(found.to(tl.int64), 0))


def is_symmetric(indptr: Tensor, indices: Tensor) -> bool:
    """Whether each entry has its reverse: by sums of hashes of 64 bits, which would agree by chance once in 10^19.

    Waits for the device.
    """
    rows = len(indptr) - 1
    out = torch.zeros(rows, dtype=torch.int64, device=indptr.device)
    if rows:
        _find_asymmetry[rows,](indptr, indices, out, BLOCK=32, num_warps=1)
    return int(out.sum()) == 0


# ---- sums over rows


@triton.jit
def _sum(  # noqa: C901 - its branches are decided when it is compiled
    start, end, indices, weights, places, row_scale, column_scale, placed, x, own, gate, out,
    channels, x_stride, own_stride, own_rows, gate_stride, out_stride, scale,
    INDICES: tl.constexpr, WEIGHTS: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PLACED: tl.constexpr, OWN: tl.constexpr, GATE: tl.constexpr, LONG: tl.constexpr, HEADS: tl.constexpr,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n, head = tl.program_id(0), tl.program_id(1) % HEADS
    inner = tl.program_id(1) // HEADS * CHANNELS + tl.arange(0, CHANNELS)
    inside = inner < channels
    c = head * channels + inner
    first, last = tl.load(start + n).to(tl.int64), tl.load(end + n).to(tl.int64)
    stored = channels
    if LONG > 0:
        short = last - first <= LONG
        last = tl.where(short, last, first)
        stored = tl.where(short, channels, 0)
    r = n.to(tl.int64)
    if PLACED:
        r = tl.load(placed + n).to(tl.int64)
    total = tl.zeros([CHANNELS], ACC)
    k = first + tl.arange(0, ENTRIES)
    i = k
    if INDICES:
        i = tl.load(indices + k, mask=k < last, other=0).to(tl.int64)
    for e in range(first, last, ENTRIES):
        k = e + tl.arange(0, ENTRIES)
        there = k < last
        v = tl.load(x + i[:, None] * x_stride + c[None, :], mask=there[:, None] & inside[None, :], other=0.0).to(ACC)
        if WEIGHTS:
            at = k
            if PLACES:
                at = tl.load(places + k, mask=there, other=0).to(tl.int64)
            v *= tl.load(weights + at * HEADS + head, mask=there, other=0.0)[:, None]
        if COLUMNS:
            v *= tl.load(column_scale + i, mask=there, other=0.0)[:, None]
        i = k + ENTRIES  # of the next round, while this one's rows are on their way
        if INDICES:
            i = tl.load(indices + k + ENTRIES, mask=k + ENTRIES < last, other=0).to(tl.int64)
        total += tl.sum(v, 0)
    if ROWS:
        total *= tl.load(row_scale + r)
    if OWN:
        held = tl.where(r < own_rows, stored, 0)
        total += tl.load(own + r * own_stride + c, mask=inner < held, other=0.0).to(ACC)
    if GATE:
        by = tl.load(gate + r * gate_stride + c, mask=inside, other=0.0).to(ACC)
        total = tl.where(by > 0.0, total * scale, 0.0)
    tl.store(out + r * out_stride + c, total, mask=inner < stored)


@dataclass(frozen=True)
class Tuning:
    """How a sum is divided: entries in flight, channels of a program at most, warps of a program."""

    entries: int
    channels: int
    warps: int = 1

    @classmethod
    def of(cls, x: Tensor) -> Tuning:
        """What was fastest on an H100 (docs/gpu.md): of 256 channels; a narrow row is one program's."""
        wide = x.shape[1] > CHANNELS and x.element_size() > 2
        return cls(ENTRIES, CHANNELS // 2 if wide else CHANNELS)


@dataclass(frozen=True)
class Weights:
    """Of entries and heads, (E, H); of a transpose, places (E,) says where its entries stand there."""

    values: Tensor
    places: Tensor | None = None


def sum_rows(
    csr: Csr,
    x: Tensor,
    out: Tensor,
    *,
    weights: Weights | None = None,
    row_scale: Tensor | None = None,
    column_scale: Tensor | None = None,
    own: Tensor | None = None,
    gate: Tensor | None = None,
    scale: float = 1.0,
    tuning: Tuning | None = None,
) -> Tensor:
    """out[r] = row_scale[r] * sum over r's entries i of column_scale[i] x[i], with more done to it before it is stored.

    weights: each head's channels are multiplied by its own. own (n, C), n <= R: is added to the first n rows. gate (R,
    C): where it is positive, all is multiplied by `scale`, elsewhere it is 0. Shapes: x (U, C), out (R, C), row_scale
    (R,), column_scale (U,). Rows of x, own, gate and out may be apart; their columns may not.
    """
    ends: dict[str, Any] = {"own": own, "gate": gate, "row_scale": row_scale, "scale": scale}
    of: dict[str, Any] = {"indices": csr.indices, "weights": weights, "column_scale": column_scale, "tuning": tuning}
    pieces = csr.pieces
    _launch_sum(csr.start, csr.end, x, out, long=LONG if pieces else 0, **of, **ends)
    if pieces:
        partial = torch.empty(len(pieces.row), x.shape[1], dtype=choose_sums(x), device=x.device)
        _launch_sum(pieces.start, pieces.end, x, partial, **of)
        _launch_sum(pieces.of[:-1], pieces.of[1:], partial, out, placed=pieces.rows, **ends)
    return out


def _launch_sum(
    start: Tensor,
    end: Tensor,
    x: Tensor,
    out: Tensor,
    *,
    indices: Tensor | None = None,
    weights: Weights | None = None,
    placed: Tensor | None = None,
    long: int = 0,
    column_scale: Tensor | None = None,
    row_scale: Tensor | None = None,
    own: Tensor | None = None,
    gate: Tensor | None = None,
    scale: float = 1.0,
    tuning: Tuning | None = None,
) -> None:
    rows, heads = len(start), weights.values.shape[1] if weights else 1
    channels = x.shape[1] // heads
    if not rows or not channels:
        return
    tuning = tuning or Tuning.of(x)
    tile = min(tuning.channels, triton.next_power_of_2(channels))
    _sum[rows, heads * triton.cdiv(channels, tile)](
        *(start, end, indices, weights and weights.values, weights and weights.places),
        *(row_scale, column_scale, placed, x, own, gate, out),
        *(channels, x.stride(0), 0 if own is None else own.stride(0), 0 if own is None else len(own)),
        *(0 if gate is None else gate.stride(0), out.stride(0), scale),
        INDICES=indices is not None,
        WEIGHTS=weights is not None,
        PLACES=weights is not None and weights.places is not None,
        ROWS=row_scale is not None,
        COLUMNS=column_scale is not None,
        PLACED=placed is not None,
        OWN=own is not None,
        GATE=gate is not None,
        LONG=long,
        HEADS=heads,
        ACC=name_sums(x),
        ENTRIES=tuning.entries,
        CHANNELS=tile,
        num_warps=tuning.warps,
    )


def choose_sums(x: Tensor) -> torch.dtype:
    """What sums of such numbers run in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def name_sums(x: Tensor) -> Any:
    """The same in Triton's words."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


# ---- row by row


@triton.jit
def derive_key(key, number):
    """counter.derive_key."""
    z = key + number.to(tl.uint64) * _GOLDEN
    z = (z ^ (z >> 30)) * _FIRST
    z = (z ^ (z >> 27)) * _SECOND
    return z ^ (z >> 31)


@triton.jit
def draw(own, column):
    """counter.draw."""
    x = column.to(tl.uint32) * _GOLDEN_32 + own.to(tl.uint32)
    x = (x ^ (x >> 16)) * _FIRST_32
    x = x ^ (own >> 32).to(tl.uint32)
    x = (x ^ (x >> 15)) * _SECOND_32
    return x ^ (x >> 15)


@triton.jit
def _finish(
    x, bias, weight, shift, nodes, draws, normed, deviations, out, width, x_stride, out_stride, eps, scale,
    NORM: tl.constexpr, KEEP: tl.constexpr, DROP: tl.constexpr, ACC: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    inside = c < width
    v = tl.load(x + r * x_stride + c, mask=inside, other=0.0).to(ACC) + tl.load(bias + c, mask=inside, other=0.0)
    if NORM:
        v = tl.where(inside, v - tl.sum(v, 0) / width, 0.0)
        deviation = 1.0 / tl.sqrt(tl.sum(v * v, 0) / width + eps)
        v = v * deviation
        if KEEP:
            tl.store(normed + r * width + c, v, mask=inside)
            tl.store(deviations + r, deviation)
        v = v * tl.load(weight + c, mask=inside, other=0.0) + tl.load(shift + c, mask=inside, other=0.0)
    v = tl.where(v < 0.0, 0.0, v)  # what is not a number stays none
    if DROP:
        own = derive_key(tl.load(draws).to(tl.uint64), tl.load(nodes + r))
        v = tl.where(draw(own, c) >= tl.load(draws + 1).to(tl.uint32), v * scale, 0.0)
    tl.store(out + r * out_stride + c, v, mask=inside)


@dataclass(frozen=True)
class Draws:
    """What masks are drawn by. draws (2,) int64: a key's 64 bits, and the bar below which a number drops."""

    draws: Tensor
    nodes: Tensor
    scale: float


def finish(
    x: Tensor,
    bias: Tensor,
    norm: tuple[Tensor, Tensor] | tuple[()],
    eps: float,
    draws: Draws | None,
    keep: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor] | tuple[()]:
    """Bias, layer norm if there is one, ReLU, dropout, of x (n, C) in place, or into `out`.

    With `keep`, rows before the norm's weight, (n, C), and 1 over their deviations, (n,).
    """
    (rows, width), out = x.shape, x if out is None else out
    kept: tuple[Tensor, ...] = ()
    if norm and keep:
        kept = torch.empty(rows, width, dtype=x.dtype, device=x.device), bias.new_empty(rows)
    if rows:
        _finish[rows,](
            *(
                x,
                bias,
                *(norm or (None, None)),
                draws and draws.nodes,
                draws and draws.draws,
                *(kept or (None, None)),
                out,
            ),
            *(width, x.stride(0), out.stride(0), eps, draws.scale if draws else 1.0),
            NORM=bool(norm),
            KEEP=bool(kept),
            DROP=draws is not None,
            ACC=name_sums(x),
            CHANNELS=triton.next_power_of_2(width),
            num_warps=_choose_warps(width),
        )
    return kept  # type: ignore[return-value]


@triton.jit
def _backpropagate_norm(grad, weight, normed, deviations, width, stride, ACC: tl.constexpr, CHANNELS: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    inside = c < width
    g = tl.load(grad + r * stride + c, mask=inside, other=0.0).to(ACC) * tl.load(weight + c, mask=inside, other=0.0)
    n = tl.load(normed + r * width + c, mask=inside, other=0.0).to(ACC)
    g = g - tl.sum(g, 0) / width - n * (tl.sum(g * n, 0) / width)
    tl.store(grad + r * stride + c, g * tl.load(deviations + r), mask=inside)


def backpropagate_norm(grad: Tensor, weight: Tensor, normed: Tensor, deviations: Tensor) -> None:
    """In place: from the gradient of a layer norm's output to that of its input, (n, C)."""
    rows, width = grad.shape
    if rows:
        _backpropagate_norm[rows,](
            *(grad, weight, normed, deviations, width, grad.stride(0)),
            ACC=name_sums(grad),
            CHANNELS=triton.next_power_of_2(width),
            num_warps=_choose_warps(width),
        )


@triton.jit
def _gate(x, by, width, stride, by_stride, scale, ACC: tl.constexpr, CHANNELS: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    v = tl.load(x + r * stride + c, mask=c < width, other=0.0).to(ACC)
    kept = tl.load(by + r * by_stride + c, mask=c < width, other=0.0).to(ACC) > 0.0
    tl.store(x + r * stride + c, tl.where(kept, v * scale, 0.0), mask=c < width)


def gate(x: Tensor, by: Tensor, scale: float) -> None:
    """In place: x (n, C) times `scale` where `by` (n, C) is positive, elsewhere 0."""
    rows, width = x.shape
    if rows:
        _gate[rows,](
            *(x, by, width, x.stride(0), by.stride(0), scale),
            ACC=name_sums(x),
            CHANNELS=triton.next_power_of_2(width),
            num_warps=_choose_warps(width),
        )


@triton.jit
def _sum_columns(
    x, by, out, rows, width, x_stride, by_stride, block,
    BY: tl.constexpr, ACC: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * block
    last = tl.minimum(first + block, rows)
    c = tl.arange(0, CHANNELS)
    total = tl.zeros([CHANNELS], ACC)
    for r in range(first, last, STEP):
        at = r + tl.arange(0, STEP)
        there = (at < last)[:, None] & (c < width)[None, :]
        v = tl.load(x + at[:, None] * x_stride + c[None, :], mask=there, other=0.0).to(ACC)
        if BY:
            v *= tl.load(by + at[:, None] * by_stride + c[None, :], mask=there, other=0.0).to(ACC)
        total += tl.sum(v, 0)
    tl.store(out + tl.program_id(0) * width + c, total, mask=c < width)


def sum_columns(x: Tensor, by: Tensor | None = None) -> Tensor:
    """Sums over the rows of x (n, C), or of x * by, (C,), in float32, or float64 where the numbers are.

    In two stages of a fixed order. PyTorch's own sum takes memory of the size of x for that.
    """
    (rows, width), channels = x.shape, triton.next_power_of_2(x.shape[1])
    step = max(1, _TILE // channels)
    block = step * triton.cdiv(triton.cdiv(rows, _PROGRAMS), step)
    partial = torch.zeros(max(1, triton.cdiv(rows, max(1, block))), width, dtype=choose_sums(x), device=x.device)
    if rows:
        _sum_columns[len(partial),](
            *(x, by, partial, rows, width, x.stride(0), 0 if by is None else by.stride(0), block),
            BY=by is not None,
            ACC=name_sums(x),
            STEP=step,
            CHANNELS=channels,
            num_warps=4,
        )
    return partial.sum(0)


def _choose_warps(width: int) -> int:
    return int(min(8, max(1, triton.next_power_of_2(width) // (8 * _THREADS))))
