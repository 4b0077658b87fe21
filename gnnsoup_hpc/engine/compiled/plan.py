"""The compiled engine's plans: the frontier of a batch, and what passes of all kinds over it have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.compiled.kernels.sums import write_scaled_sums
from gnnsoup_hpc.engine.frontier import Division, Frontier, find_frontier
from gnnsoup_hpc.engine.sharding import Scale
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.types import Dense, IndexArray, Precision
from gnnsoup_hpc.utils.out_of_core import BufferPool

Product = Callable[[Dense, Dense, Dense], object]  # a (n, k), b (k, m), out (n, m) = a @ b


@dataclass(frozen=True)
class CompiledPlan(Frontier):
    """workspace: for hidden states, kept from pass to pass. precision: of dense products. comm: ranks that share it."""

    net: Architecture
    workspace: BufferPool
    precision: Precision = "float32"
    comm: Comm = SERIAL

    @classmethod
    def of(
        cls,
        batch: Batch,
        net: Architecture,
        *,
        row_work: Sequence[int] | None = None,
        division: Division | None = None,
        workspace: BufferPool | None = None,
        precision: Precision = "float32",
    ) -> Self:
        """The plan of a model. row_work: as in `find_frontier`."""
        found = find_frontier(batch, net.aggregation, net.layers, loops=True, division=division, row_work=row_work)
        comm = division.comm if division else SERIAL
        return cls(**vars(found), net=net, workspace=workspace or BufferPool(), precision=precision, comm=comm)

    def spread(self, grad: Dense) -> Dense:
        """The gradient of this rank's scores (n, C) in the places of the last layer's rows; zeros for others'."""
        start, stop = self.shard.own
        if stop - start == self.rows[-1]:
            return grad
        out = np.zeros((self.rows[-1], grad.shape[1]), grad.dtype)
        out[start:stop] = grad
        return out


@dataclass(frozen=True)
class Sums:
    """diag(row_scale) A diag(column_scale) for a CSR structure A, as a product with dense matrices on the CPU.

    Shapes: start, end (rows,), indices (entries,).
    """

    start: IndexArray
    end: IndexArray
    indices: IndexArray
    row_scale: Scale
    column_scale: Scale

    def into(self, first: int, last: int, x: Dense, out: Dense, add: bool = False) -> None:
        """Rows first to last - 1 of the product with x (columns, C), into out (last - first, C), on this thread.

        `add` adds to what is there, where rows are not scaled.
        """
        write_scaled_sums(
            first, last, self.start, self.end, self.indices, self.row_scale, self.column_scale, x, out, add
        )


@dataclass(frozen=True)
class SumPlan(CompiledPlan):
    """Of GCN and GraphSAGE: each layer after the first is a product, and its transpose for gradients."""

    def sums(self, layer: int) -> Sums:
        """What a layer after the first sums up, (rows, columns)."""
        rows = self.rows[layer]
        return Sums(self.start[:rows], self.start[1 : rows + 1], self.indices, self.scale[:rows], self._columns(layer))

    @cached_property
    def transposes(self) -> tuple[Sums, ...]:
        """Of each layer after the first: by column, the rows that sum it up; only gradients need them."""
        by_column, sources, _ = structure.transpose(self.start, self.indices, self.rows[0], False)

        def transpose(layer: int) -> Sums:
            columns, rows = self.rows[layer - 1], self.rows[layer]
            end = structure.find_ends_below(by_column, sources, columns, rows)
            return Sums(by_column[:columns], end, sources, self._columns(layer), self.scale[:rows])

        return tuple(transpose(layer) for layer in range(1, len(self.rows)))

    def _columns(self, layer: int) -> Scale:
        """What columns are multiplied by; empty for 1 everywhere."""
        symmetric = self.net.aggregation is not None and self.net.aggregation.symmetric
        return self.scale[: self.rows[layer - 1] if symmetric else 0]


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
        return lambda a, b, out: torch.from_numpy(out).copy_(torch.mm(_round(a), _round(b)))
    return lambda a, b, out: np.matmul(a, b, out=out)


def _round(x: Dense) -> torch.Tensor:
    """To bfloat16, laid out as it is: a transpose is rounded as what it is the transpose of, which is much faster."""
    if x.flags.c_contiguous:
        return torch.from_numpy(x).bfloat16()
    return torch.from_numpy(x.T).bfloat16().T
