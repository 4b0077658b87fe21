"""What a loss or an accuracy of GAT needs of a subgraph, and no more: built once, used by every mixture.

Nodes are ordered as in plan.py: by their distance, along in-edges, from the nodes that are asked for. So layer l makes
the first rows[l] of them, its columns are the rows of the layer before (of the first layer: all nodes), and one CSR
structure, with exactly one self-loop a node, holds every layer's: its first rows[l] rows. The transpose, which only
gradients need, keeps for each entry its place in that structure, where its weight stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from gnnsoup_hpc.compiled import structure
from gnnsoup_hpc.crew import Span, cut
from gnnsoup_hpc.records import Dense, IndexArray, Precision
from gnnsoup_hpc.subgraph import View


@dataclass(frozen=True)
class Transpose:
    """Of one layer: row = source, entries = the rows that attend to it, places = those entries in the structure.

    Shapes: start, end (columns,), rows, places (E,). Entries of row c are start[c] to end[c] - 1.
    """

    start: IndexArray
    end: IndexArray
    rows: IndexArray
    places: IndexArray
    lanes: tuple[Span, ...]


@dataclass(frozen=True)
class AttentionPlan:
    """Shapes: rows (L,), x (U, F), start (rows[0] + 1,), indices (E,), labels (rows[-1],).

    lanes: of the columns of the first layer, then of each layer's rows. size: nodes of the subgraph.
    """

    rows: tuple[int, ...]
    x: Dense
    start: IndexArray
    indices: IndexArray
    lanes: tuple[tuple[Span, ...], ...]
    labels: Tensor
    size: int
    precision: Precision = "float32"  # of dense products, but for those that scores come from

    @classmethod
    def of(cls, view: View, depth: int) -> AttentionPlan:
        """The plan of `depth` layers for a view on the CPU; nothing of the view is kept."""
        adjacency = view.graph.adjacency
        indptr, indices = structure.with_loops(adjacency.indptr.numpy(), adjacency.indices.numpy())
        order = np.empty(adjacency.nodes, dtype=indices.dtype)
        local = np.full(adjacency.nodes, -1, dtype=indices.dtype)
        counts = structure.reached(indptr, indices, view.nodes.numpy(), depth, order, local)
        *rows, columns = (int(count) for count in counts)
        start, entries = structure.renumbered(indptr, indices, order[: rows[-1]], local)
        x = view.graph.x.numpy()[order[:columns]]
        layers = [cut(start[: count + 1]) for count in rows[::-1]]
        lanes = (cut(np.zeros(columns + 1, dtype=np.int64)), *layers)
        return cls(tuple(rows[::-1]), x, start, entries, lanes, view.labels, adjacency.nodes)

    def columns(self, layer: int) -> int:
        """Nodes that a layer attends to."""
        return self.rows[layer - 1] if layer else len(self.x)

    def entries(self, layer: int) -> int:
        """Entries of a layer's rows."""
        return int(self.start[self.rows[layer]])

    @cached_property
    def transposes(self) -> tuple[Transpose, ...]:
        """Of each layer."""
        start, rows, places = structure.transposed_with_places(self.start, self.indices, len(self.x))
        return tuple(self._transpose(layer, start, rows, places) for layer in range(len(self.rows)))

    def _transpose(self, layer: int, start: IndexArray, rows: IndexArray, places: IndexArray) -> Transpose:
        columns = self.columns(layer)
        end = structure.ends_below(start, rows, columns, self.rows[layer])
        lanes = cut(np.concatenate([[0], np.cumsum(end - start[:columns])]))
        return Transpose(start[:columns], end, rows, places, lanes)
