"""What a loss or an accuracy needs of a subgraph, and no more: built once, used by every mixture.

Nodes are ordered by their distance, along in-edges, from the nodes that are asked for. So what layer l makes is needed
of the first rows[l] nodes alone, the rows of a layer come first among its columns, and one CSR structure holds every
layer's: of each row all entries, of its transpose those below a bound. The first hop of GCN and GraphSAGE depends on
no weight and is part of the plan. (PyG and DGL call such a structure a message flow graph.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gnnsoup_hpc.compiled import structure
from gnnsoup_hpc.compiled.first import looped_degrees, means_beside_own, normalised_sums, side_by_side
from gnnsoup_hpc.compiled.sums import scaled_sums
from gnnsoup_hpc.crew import Crew, Space, Span, cut
from gnnsoup_hpc.pool import Pool
from gnnsoup_hpc.records import Dense, IndexArray, Precision
from gnnsoup_hpc.subgraph import Subgraph, View

Scale = npt.NDArray[Any]  # (rows,) or empty for 1 everywhere


@dataclass(frozen=True)
class Sums:
    """diag(row_scale) A diag(column_scale) for a CSR structure A, as a product with dense matrices on the CPU.

    Shapes: start, end (rows,), indices (entries,). `lanes` cut the rows into shares of about equal work.
    """

    start: IndexArray
    end: IndexArray
    indices: IndexArray
    row_scale: Scale
    column_scale: Scale
    lanes: tuple[Span, ...]

    def into(self, first: int, last: int, x: Dense, out: Dense, add: bool = False) -> None:
        """Rows first to last - 1 of the product with x (columns, C), into out (last - first, C), on this thread.

        `add` adds to what is there, where rows are not scaled.
        """
        scaled_sums(
            first, last, self.start, self.end, self.indices, self.row_scale, self.column_scale, x, out, first, add
        )


@dataclass(frozen=True)
class Layer:
    """The product of one layer after the first, (rows, columns), and its transpose."""

    sums: Sums
    transpose: Sums


@dataclass(frozen=True)
class Plan:
    """Shapes: rows (L,), those that each layer makes; first (rows[0], width); labels (rows[-1],).

    first: what the first weights multiply: [mean(x) | x] of GraphSAGE, the normalised sum of GCN. layers: of the
    layers after the first. size: nodes of the subgraph. space: for hidden states, kept from pass to pass.
    precision: of dense products.
    """

    rows: tuple[int, ...]
    first: Tensor
    layers: tuple[Layer, ...]
    labels: Tensor
    size: int
    space: Space = field(default_factory=Space)
    precision: Precision = "float32"

    def lanes(self, layer: int) -> tuple[Span, ...]:
        """Shares of the rows that a layer makes."""
        return self.layers[layer - 1].sums.lanes if layer else cut(np.zeros(self.rows[0] + 1, dtype=np.int64))

    @classmethod
    def of(cls, view: View, kind: str, depth: int, space: Space | None = None) -> Plan:
        """The plan of `depth` layers of kind gcn or sage for a view on the CPU.

        Nothing of the view is kept but its labels; `first` takes its memory from the view's pool, if it has one.
        """
        graph, gcn = view.graph, kind == "gcn"
        indptr, indices = graph.adjacency.indptr.numpy(), graph.adjacency.indices.numpy()
        order = np.empty(graph.adjacency.nodes, dtype=indices.dtype)
        local = np.full(graph.adjacency.nodes, -1, dtype=indices.dtype)
        counts = structure.reached(indptr, indices, view.nodes.numpy(), depth - 1, order, local)
        rows = tuple(int(count) for count in counts[::-1])
        order = order[: rows[0]]
        scale = _scale(kind, indptr, indices, graph.x.numpy().dtype)
        first = _first(graph, kind, order, scale)
        inner = structure.renumbered(indptr, indices, order[: max(rows[1:], default=0)], local, gcn)
        layers = _layers(kind, rows, inner, scale[order])
        return cls(rows, first, layers, view.labels, graph.adjacency.nodes, space or Space())


def _scale(kind: str, indptr: IndexArray, indices: IndexArray, dtype: Any) -> Scale:
    """What a row is multiplied by, (V,): GraphSAGE's 1 / degree, GCN's 1 / sqrt(degree with the loop)."""
    degree = looped_degrees(indptr, indices, 0) if kind == "gcn" else np.maximum(np.diff(indptr), 1)
    root: Scale = degree.astype(dtype)
    if kind == "gcn":
        np.sqrt(root, out=root)
    return np.divide(1, root, out=root)


def _first(graph: Subgraph, kind: str, order: IndexArray, scale: Scale) -> Tensor:
    """[mean(x) | x] or GCN's normalised sum of the rows `order`."""
    x, hop = graph.x.numpy(), None if graph.hop is None else graph.hop.numpy()
    width = x.shape[1] if hop is None else hop.shape[1]
    shape = len(order), width if kind == "gcn" else 2 * width
    out = (graph.pool or Pool()).array("first", shape, scale.dtype)
    indptr, indices = graph.adjacency.indptr.numpy(), graph.adjacency.indices.numpy()
    own = x if kind == "sage" else np.empty((len(x), 0), dtype=x.dtype)
    kernel = normalised_sums if kind == "gcn" else means_beside_own

    def fill(first: int, last: int) -> None:
        if hop is None:
            kernel(first, last, order, indptr, indices, scale, x, out)
        else:
            side_by_side(first, last, order, hop, own, out)

    with Crew() as crew:
        crew.each(fill, cut(np.concatenate([[0], np.cumsum(np.diff(indptr)[order])])))
    return torch.from_numpy(out)


def _layers(kind: str, rows: Sequence[int], inner: tuple[IndexArray, IndexArray], scale: Scale) -> tuple[Layer, ...]:
    start, entries = inner
    none = scale[:0]
    by_column, sources = structure.transposed(start, entries, rows[0])
    layers = []
    for columns, mine in pairwise(rows):
        column_scale = scale[:columns] if kind == "gcn" else none
        end = structure.ends_below(by_column, sources, columns, mine)
        layers.append(
            Layer(
                Sums(start[:mine], start[1 : mine + 1], entries, scale[:mine], column_scale, cut(start[: mine + 1])),
                Sums(by_column[:columns], end, sources, column_scale, scale[:mine], cut(by_column[: columns + 1])),
            )
        )
    return tuple(layers)
