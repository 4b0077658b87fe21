"""The compiled engine's plan: the frontier of a batch, and what passes of all kinds over it have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.frontier import Frontier
from gnnsoup_hpc.engine.sharding import Scale
from gnnsoup_hpc.engine.threads import STEP
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL, Comm, Moves
from gnnsoup_hpc.types import Dense, IndexArray, Precision
from gnnsoup_hpc.utils.out_of_core import BufferPool

Product = Callable[[Dense, Dense, Dense], object]  # a (n, k), b (k, m), out (n, m) = a @ b
_ENTRY_WORK = 12  # of an entry's channel, in multiplications of a product that take as long
_WORTH = 1.1


Transpose = tuple[IndexArray, IndexArray, IndexArray, Any]  # start, end, rows, places or values


@dataclass(frozen=True)
class CompiledPlan(Frontier):
    """workspace: for hidden states, kept from pass to pass. precision: of dense products. comm: ranks that share it.

    Of GCN and GraphSAGE each layer after the first is a product with diag(scale) A diag(column_scale), A the first rows
    of the structure, with `values` in it where edges have weights. Of GAT each layer is one with weights of its own in
    A, exactly one self-loop a node included; its precision is not that of the products that scores come from, and it
    takes nothing from the workspace.
    """

    net: Architecture
    workspace: BufferPool
    precision: Precision = "float32"
    comm: Comm = SERIAL

    @property
    def column_scale(self) -> Scale:
        """What columns are multiplied by; empty for 1 everywhere."""
        symmetric = self.net.aggregation is not None and self.net.aggregation.symmetric
        return self.scale if symmetric else self.scale[:0]

    @property
    def features(self) -> Any:
        """Sparse ones of the first layer's columns, (U, F) CSR; None where they are dense."""
        return None if isinstance(self.first, torch.Tensor) else self.first

    def place(self, layer: int) -> int:
        """Number of a layer in the shard, where features come first unless first sums are made."""
        return layer if self.sums_first else layer + 1

    @cached_property
    def transposes(self) -> dict[int, Transpose]:
        """By layer, but for a first one that is in `first`: the rows that sum up each column; for gradients alone.

        Shapes: start, end (columns or more,), rows (E,). Entries of column c are start[c] to end[c] - 1. Last come, of
        GAT, the places in the structure where they stand, (E,); of others their values, as in the structure.
        """
        attends, weighted = self.net.aggregation is None, len(self.values) > 0
        layers = range(1 if self.sums_first else 0, len(self.rows))
        columns = self.columns(layers.start)
        start, rows, places = structure.transpose(self.start, self.indices, columns, attends or weighted)
        ends = [structure.find_ends_below(start, rows, self.columns(layer), self.rows[layer]) for layer in layers]
        last = places if attends else self.values[places]
        return {layer: (start, end, rows, last) for layer, end in zip(layers, ends, strict=True)}

    @cached_property
    def crossing(self) -> tuple[Moves, ...]:
        """Of each layer of GAT, entries of own rows whose columns are others', and of others' whose columns are own.

        Of others' rows that attend to own columns a rank holds those entries alone; their weights come from the rank
        that has the row.
        """
        return tuple(self._find_crossing(layer) for layer in range(len(self.rows)))

    def _find_crossing(self, layer: int) -> Moves:
        own = np.zeros(self.columns(layer), dtype=np.bool_)
        for start, stop in self.shard.chunks(layer):
            own[start:stop] = True
        found, shard = [], self.shard
        for (_, _, others), (rank, sent, got) in zip(shard.states[layer], shard.gradients[layer], strict=True):
            halo = np.zeros_like(own)
            halo[others] = True
            given = structure.find_entries_to(self.start, self.indices, sent, halo)
            taken = structure.find_entries_to(self.start, self.indices, got, own)
            found.append((rank, given, taken))
        return found

    def spread(self, grad: Dense) -> Dense:
        """The gradient of this rank's scores (n, C) in the places of the last layer's rows; zeros for others'."""
        start, stop = self.shard.own
        if stop - start == self.rows[-1]:
            return grad
        out = np.zeros((self.rows[-1], grad.shape[1]), grad.dtype)
        out[start:stop] = grad
        return out


def choose_early(
    net: Architecture, reach: Sequence[tuple[int, int]], keep: bool, sums_first: bool = True
) -> list[bool]:
    """Of each layer, whether multiplying states before they are summed up is less work than multiplying sums.

    It is for layers that narrow, unless they have many more columns than rows. reach: rows of each layer and entries of
    theirs, on all ranks. keep: for gradients, where sums that are multiplied take memory, which is worth some work.
    sums_first: whether the first layer's sums are given; else features are sparse, which products with weights are
    not.
    """
    found = [not sums_first]
    for layer in range(1, net.layers):
        (rows, entries), (columns, _) = reach[layer], reach[layer - 1]
        into, out = net.widths(layer)
        early = columns * into * out + _ENTRY_WORK * entries * out
        late = rows * into * out + _ENTRY_WORK * entries * into
        found.append(early < late * (_WORTH if keep else 1))
    return found


def find_masks(dropout: CountedDropout, layer: int, entries: bool = False) -> tuple[np.uint64, np.uint32, float]:
    """Key, bar and scale that the kernels of dropout take for a layer's states, or its entries."""
    return np.uint64(dropout.key_of(layer, entries)), np.uint32(dropout.bar), dropout.scale


def sum_pieces(shapes: Mapping[str, tuple[int, ...]], pieces: Sequence[Mapping[str, Dense]]) -> dict[str, Dense]:
    """The sections' gradients summed up in float64, where the order of so few does not tell."""
    totals = {name: np.zeros(shape) for name, shape in shapes.items()}
    for piece in pieces:
        for name, mine in piece.items():
            totals[name] += mine
    return totals


def choose_product(precision: Precision) -> Product:
    """The product that a precision stands for: as the arrays are, or of factors rounded to bfloat16.

    bfloat16's sums run in float32 inside the processor, and the result is rounded once more.
    """
    if precision == "bfloat16":
        return _multiply_rounded
    return lambda a, b, out: np.matmul(a, b, out=out)


def _multiply_rounded(a: Dense, b: Dense, out: Dense) -> None:
    """Of sizes that are multiples of a step, by zeros: the library compiles a product for each that it meets."""
    rows, inner = (-size % STEP for size in a.shape)
    found = torch.mm(_round(a, rows, inner), _round(b, inner, 0))
    torch.from_numpy(out).copy_(found[: len(out)])


def _round(x: Dense, rows: int, columns: int) -> torch.Tensor:
    """To bfloat16, with so many more of zeros, laid out as it is: a transpose is rounded as what it is of, and fast."""
    if not x.flags.c_contiguous:
        return _round_contiguous(x.T, columns, rows).T
    return _round_contiguous(x, rows, columns)


def _round_contiguous(x: Dense, rows: int, columns: int) -> torch.Tensor:
    rounded = torch.from_numpy(x).bfloat16()
    return functional.pad(rounded, (0, columns, 0, rows)) if rows or columns else rounded
