"""The compiled engine's plan of GCN and GraphSAGE: the frontier of a batch, as products of each layer and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.compiled.kernels.sums import write_scaled_sums
from gnnsoup_hpc.engine.compiled.threads import Span, Workspace
from gnnsoup_hpc.engine.frontier import Division, Frontier, find_frontier
from gnnsoup_hpc.engine.sharding import Scale
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.types import Dense, IndexArray, Precision


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
            first, last, self.start, self.end, self.indices, self.row_scale, self.column_scale, x, out, first, add
        )


@dataclass(frozen=True)
class LayerProducts:
    """The product of one layer after the first, (rows, columns), and its transpose."""

    sums: Sums
    transpose: Sums


@dataclass(frozen=True)
class SumPlan(Frontier):
    """workspace: for hidden states, kept from pass to pass. precision: of dense products. comm: ranks that share it."""

    net: Architecture
    workspace: Workspace
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
        workspace: Workspace | None = None,
        precision: Precision = "float32",
    ) -> SumPlan:
        """The plan of a model with an aggregation. row_work: as in `find_frontier`."""
        found = find_frontier(batch, net.aggregation, net.layers, division=division, row_work=row_work)
        comm = division.comm if division else SERIAL
        return cls(**vars(found), net=net, workspace=workspace or Workspace(), precision=precision, comm=comm)

    def sections(self, layer: int) -> list[tuple[Span, ...]]:
        """This rank's rows of a layer, in sections: a rank's sums run over each by itself."""
        return self.shard.sections_of(layer)

    def chunks(self, layer: int) -> list[Span]:
        """The same rows in shares for threads."""
        return self.shard.chunks(layer)

    def sums(self, layer: int) -> Sums:
        """What a layer after the first sums up, (rows, columns)."""
        rows = self.rows[layer]
        return Sums(self.start[:rows], self.start[1 : rows + 1], self.indices, self.scale[:rows], self._columns(layer))

    @cached_property
    def _transpose(self) -> tuple[IndexArray, IndexArray]:
        """By column, the rows that sum it up; only gradients need it."""
        return structure.transpose(self.start, self.indices, self.rows[0])

    @cached_property
    def transposes(self) -> tuple[Sums, ...]:
        """Of each layer after the first."""
        return tuple(self._transpose_of(layer) for layer in range(1, len(self.rows)))

    def _transpose_of(self, layer: int) -> Sums:
        by_column, sources = self._transpose
        columns, rows = self.rows[layer - 1], self.rows[layer]
        end = structure.find_ends_below(by_column, sources, columns, rows)
        return Sums(by_column[:columns], end, sources, self._columns(layer), self.scale[:rows])

    def _columns(self, layer: int) -> Scale:
        """What columns are multiplied by; empty for 1 everywhere."""
        symmetric = self.net.aggregation is not None and self.net.aggregation.symmetric
        return self.scale[: self.rows[layer - 1] if symmetric else 0]
