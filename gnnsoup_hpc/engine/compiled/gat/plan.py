"""The compiled engine's plan of GAT: the frontier of a batch, with exactly one self-loop a node, and its transposes.

A layer's columns are the rows of the layer before; of the first layer, all nodes. The transpose, which only gradients
need, keeps for each entry its place in the structure, where its weight stands.

Of several ranks, layer l of a shard indexes the source nodes (columns) of layer l. Of others' rows that attend to own
columns a rank holds those entries alone; their weights come from the rank that has the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.compiled.kernels.shards import entries_to
from gnnsoup_hpc.engine.frontier import Division, Frontier, find_frontier
from gnnsoup_hpc.engine.sharding import Halo
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL, Comm, Moves
from gnnsoup_hpc.types import Dense, IndexArray, Precision


@dataclass(frozen=True)
class Transpose:
    """Of one layer: row = source, entries = the rows that attend to it, places = those entries in the structure.

    Shapes: start, end (columns,), rows, places (E,). Entries of row c are start[c] to end[c] - 1.
    """

    start: IndexArray
    end: IndexArray
    rows: IndexArray
    places: IndexArray


@dataclass(frozen=True)
class GatPlan(Frontier):
    """precision: of dense products, but for those that scores come from. comm: ranks that share the batch."""

    net: Architecture
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
        precision: Precision = "float32",
    ) -> GatPlan:
        """The plan of a model. row_work: as in `find_frontier`."""
        found = find_frontier(batch, None, net.layers, loops=True, division=division, row_work=row_work)
        comm = division.comm if division else SERIAL
        return cls(**vars(found), net=net, precision=precision, comm=comm)

    @property
    def x(self) -> Dense:
        """Features of the first layer's columns, (U, F)."""
        return self.first.numpy()

    def count_entries(self, layer: int) -> int:
        """Entries of a layer's rows."""
        return int(self.start[self.rows[layer]])

    @cached_property
    def transposes(self) -> tuple[Transpose, ...]:
        """Of each layer."""
        start, rows, places = structure.transpose_with_places(self.start, self.indices, len(self.x))
        return tuple(self._transpose(layer, start, rows, places) for layer in range(len(self.rows)))

    def _transpose(self, layer: int, start: IndexArray, rows: IndexArray, places: IndexArray) -> Transpose:
        columns = self.columns(layer)
        end = structure.find_ends_below(start, rows, columns, self.rows[layer])
        return Transpose(start[:columns], end, rows, places)

    def seen(self, layer: int) -> Moves:
        """Columns of a layer that other ranks' rows attend to, and others' that own rows do."""
        return [(halo.rank, *halo.states[layer]) for halo in self.shard.halos]

    def seeing(self, layer: int) -> Moves:
        """Rows of a layer that attend to others' columns, and others' that attend to own ones."""
        return [(halo.rank, *halo.gradients[layer]) for halo in self.shard.halos]

    @cached_property
    def crossing(self) -> tuple[Moves, ...]:
        """Of each layer, entries of own rows whose columns are others', and of others' rows whose columns are own."""
        return tuple([self._crossing(layer, halo) for halo in self.shard.halos] for layer in range(len(self.rows)))

    def _crossing(self, layer: int, halo: Halo) -> tuple[int, IndexArray, IndexArray]:
        own, others = (np.zeros(self.columns(layer), dtype=np.bool_) for _ in range(2))
        for start, stop in self.shard.chunks(layer):
            own[start:stop] = True
        others[halo.states[layer][1]] = True
        sent, got = halo.gradients[layer]
        return (
            halo.rank,
            entries_to(self.start, self.indices, sent, others),
            entries_to(self.start, self.indices, got, own),
        )
