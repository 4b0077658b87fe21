"""What a loss or an accuracy of GAT needs of a subgraph, and no more: built once, used by every mixture.

Nodes are ordered as in plan.py: by their distance, along in-edges, from the nodes that are asked for. So layer l makes
the first rows[l] of them, its columns are the rows of the layer before (of the first layer: all nodes), and one CSR
structure, with exactly one self-loop a node, holds every layer's: its first rows[l] rows. The transpose, which only
gradients need, keeps for each entry its place in that structure, where its weight stands.

Of several ranks, each has the plan of its shard (shards.py), whose layer l is what layer l attends to: columns. Of
others' rows that attend to own columns it holds those entries alone; their weights come from the rank that has the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.compiled.kernels.shards import entries_to
from gnnsoup_hpc.engine.compiled.passes import Moves
from gnnsoup_hpc.engine.compiled.plan import ReadRows
from gnnsoup_hpc.engine.compiled.sharding import Halo, NodeShare, Shard
from gnnsoup_hpc.engine.compiled.threads import ROW_WORK
from gnnsoup_hpc.graph.subgraph import Batch
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
class GatPlan:
    """Shapes: rows (L,), x (U, F), start (rows[0] + 1,), indices (E,), labels (n,), of all asked nodes.

    size: nodes of the subgraph. shard: which columns of each layer are this rank's, and as layer L which class scores.
    """

    rows: tuple[int, ...]
    x: Dense
    start: IndexArray
    indices: IndexArray
    labels: Tensor
    size: int
    shard: Shard
    precision: Precision = "float32"  # of dense products, but for those that scores come from

    @classmethod
    def of(
        cls,
        view: Batch,
        depth: int,
        split: NodeShare | None = None,
        x_of: ReadRows | None = None,
        row_work: Sequence[int] | None = None,
    ) -> GatPlan:
        """The plan of `depth` layers for a view on the CPU, or of a rank's shard; nothing of the view is kept.

        split, x_of: as in `Plan.of`. row_work (depth + 1,): as in `Shard.of`, first of what the first layer attends to.
        """
        adjacency, nodes = view.graph.adjacency, view.nodes.numpy()
        rows_of = adjacency.indptr.numpy(), adjacency.indices.numpy()
        work, none = row_work or [ROW_WORK] * (depth + 1), np.empty(0, dtype=np.float32)
        shard = Shard.of(rows_of, none, nodes, work, split, first_sums=False)
        rows = tuple(int(count) for count in shard.counts[-2::-1])
        start, entries = structure.renumber(
            shard.indptr, shard.indices, shard.order[: shard.inner], shard.place, loops=True
        )
        ids = shard.order if shard.ids is None else shard.ids[shard.order]
        x = view.graph.x.numpy()[ids] if x_of is None else x_of(ids.astype(np.int64))
        return cls(rows, x, start, entries, view.labels, adjacency.nodes, shard.bare)

    def columns(self, layer: int) -> int:
        """Nodes that a layer attends to."""
        return self.rows[layer - 1] if layer else len(self.x)

    def entries(self, layer: int) -> int:
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
        return [(border.rank, *border.states[layer]) for border in self.shard.borders]

    def seeing(self, layer: int) -> Moves:
        """Rows of a layer that attend to others' columns, and others' that attend to own ones."""
        return [(border.rank, *border.gradients[layer]) for border in self.shard.borders]

    @cached_property
    def crossing(self) -> tuple[Moves, ...]:
        """Of each layer, entries of own rows whose columns are others', and of others' rows whose columns are own."""
        return tuple(
            [self._crossing(layer, border) for border in self.shard.borders] for layer in range(len(self.rows))
        )

    def _crossing(self, layer: int, border: Halo) -> tuple[int, IndexArray, IndexArray]:
        own, others = (np.zeros(self.columns(layer), dtype=np.bool_) for _ in range(2))
        for start, stop in self.shard.lanes(layer):
            own[start:stop] = True
        others[border.states[layer][1]] = True
        sent, got = border.gradients[layer]
        return (
            border.rank,
            entries_to(self.start, self.indices, sent, others),
            entries_to(self.start, self.indices, got, own),
        )
