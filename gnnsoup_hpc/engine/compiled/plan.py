"""What a loss or an accuracy needs of a subgraph, and no more: built once, used by every mixture.

Nodes are ordered by their distance, along in-edges, from the nodes that are asked for. So what layer l makes is needed
of the first rows[l] nodes alone, the rows of a layer come first among its columns, and one CSR structure holds every
layer's: of each row all entries, of its transpose those below a bound. The first hop of GCN and GraphSAGE depends on
no weight and is part of the plan. (PyG and DGL call such a structure a message flow graph.) Of several ranks, each has
the plan of its shard, where others' rows are empty until their ranks send them (shards.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.compiled.kernels.first import (
    copy_side_by_side,
    count_looped_degrees,
    write_means_beside_own,
    write_normalised_sums,
)
from gnnsoup_hpc.engine.compiled.kernels.sums import write_scaled_sums
from gnnsoup_hpc.engine.compiled.sharding import NodeShare, Scale, Shard
from gnnsoup_hpc.engine.compiled.threads import ROW_WORK, Span, ThreadTeam, Workspace
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.types import Dense, FloatArray, IndexArray, IntArray, Precision
from gnnsoup_hpc.utils.buffers import BufferPool

ReadRows = Callable[[IntArray], FloatArray]  # features of the nodes of some ids


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
class Plan:
    """Shapes: rows (L,), those that each layer makes; first (rows[0], width); labels (n,), of all asked nodes.

    first: what the first weights multiply: [mean(x) | x] of GraphSAGE, the normalised sum of GCN. layers: of the
    layers after the first. size: nodes of the subgraph. space: for hidden states, kept from pass to pass.
    precision: of dense products. shard: which rows are this rank's; without borders, all.
    """

    rows: tuple[int, ...]
    first: Tensor
    layers: tuple[LayerProducts, ...]
    labels: Tensor
    size: int
    shard: Shard
    space: Workspace = field(default_factory=Workspace)
    precision: Precision = "float32"

    def sections(self, layer: int) -> list[tuple[Span, ...]]:
        """This rank's rows of a layer, in sections: a rank's sums run over each by itself."""
        return self.shard.sections_of(layer)

    def lanes(self, layer: int) -> list[Span]:
        """The same rows in shares for threads."""
        return self.shard.lanes(layer)

    @property
    def own(self) -> Span:
        """This rank's rows of the last layer."""
        return self.shard.own

    @classmethod
    def of(
        cls,
        view: Batch,
        kind: str,
        depth: int,
        space: Workspace | None = None,
        split: NodeShare | None = None,
        x_of: ReadRows | None = None,
        row_work: Sequence[int] | None = None,
    ) -> Plan:
        """The plan of `depth` layers of kind gcn or sage for a view on the CPU, or of a rank's shard of it.

        Nothing of the view is kept but its labels; `first` takes its memory from the view's pool, if it has one. With
        `x_of`, features of the shard's nodes are asked of it, and the view's are not looked at. row_work: as in
        `Shard.of`, from which ranks get about equal work.
        Shapes: view.nodes (n,), rising.
        """
        graph, gcn = view.graph, kind == "gcn"
        indptr, indices = graph.adjacency.indptr.numpy(), graph.adjacency.indices.numpy()
        scale = _scale(kind, indptr, indices, graph.x.numpy().dtype)
        shard = Shard.of((indptr, indices), scale, view.nodes.numpy(), row_work or [ROW_WORK] * depth, split)
        rows = tuple(int(count) for count in shard.counts[::-1])
        first = _first(graph, kind, shard, x_of)
        inner = structure.renumber(shard.indptr, shard.indices, shard.order[: shard.inner], shard.place, gcn)
        layers = _layers(kind, rows, inner, shard.scale[shard.order])
        return cls(rows, first, layers, view.labels, graph.adjacency.nodes, shard.bare, space or Workspace())


def _scale(kind: str, indptr: IndexArray, indices: IndexArray, dtype: Any) -> Scale:
    """What a row is multiplied by, (V,): GraphSAGE's 1 / degree, GCN's 1 / sqrt(degree with the loop)."""
    degree = count_looped_degrees(indptr, indices, 0) if kind == "gcn" else np.maximum(np.diff(indptr), 1)
    root: Scale = degree.astype(dtype)
    if kind == "gcn":
        np.sqrt(root, out=root)
    return np.divide(1, root, out=root)


def _first(graph: Subgraph, kind: str, shard: Shard, x_of: ReadRows | None) -> Tensor:
    """[mean(x) | x] or GCN's normalised sum of the shard's rows; of others' rows, nothing."""
    if shard.ids is None:
        x, hop = graph.x.numpy(), None if graph.hop is None else graph.hop.numpy()
    else:
        x = graph.x.numpy()[shard.ids] if x_of is None else x_of(shard.ids)
        hop = None if graph.hop is None else graph.hop.numpy()[shard.ids]
    width = x.shape[1] if hop is None else hop.shape[1]
    shape = len(shard.order), width if kind == "gcn" else 2 * width
    out = (graph.pool or BufferPool()).array("first", shape, shard.scale.dtype)
    own = x if kind == "sage" else np.empty((len(x), 0), dtype=x.dtype)
    kernel = write_normalised_sums if kind == "gcn" else write_means_beside_own

    def fill(first: int, last: int) -> None:
        if hop is None:
            kernel(first, last, shard.order, shard.indptr, shard.indices, shard.scale, x, out)
        else:
            copy_side_by_side(first, last, shard.order, hop, own, out)

    with ThreadTeam() as crew:
        crew.each(fill, [span for spans in shard.sections for span in spans])
    return torch.from_numpy(out)


def _layers(
    kind: str, rows: Sequence[int], inner: tuple[IndexArray, IndexArray], scale: Scale
) -> tuple[LayerProducts, ...]:
    start, entries = inner
    none = scale[:0]
    by_column, sources = structure.transpose(start, entries, rows[0])
    layers = []
    for columns, mine in pairwise(rows):
        column_scale = scale[:columns] if kind == "gcn" else none
        end = structure.find_ends_below(by_column, sources, columns, mine)
        layers.append(
            LayerProducts(
                Sums(start[:mine], start[1 : mine + 1], entries, scale[:mine], column_scale),
                Sums(by_column[:columns], end, sources, column_scale, scale[:mine]),
            )
        )
    return tuple(layers)
