"""A batch made ready on the device: what the loss needs of it and no more, by the same rules as engine/frontier.py.

All of it is made there, from the batch's features and structure, which are copied as they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.engine.triton.kernels import (
    Csr,
    Weights,
    count_entries,
    is_symmetric,
    list_entries,
    mark_neighbours,
    renumber,
    sum_rows,
)
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Aggregation, Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import IntArray, Precision

KINDS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PassKind = tuple[bool, float]  # whether gradients follow, and what dropout multiplies by


@dataclass(frozen=True)
class TritonPlan:
    """A batch on the device, for any number of states.

    Shapes: rows (L,), those that each layer makes; first (rows[0], width), what the first weights multiply, of GAT (U,
    F), features of the first layer's columns; start (R + 1,), indices (E,), CSR of the rows after the first layer, of
    GAT of all; scale (rows[0],), None for GAT, and where edges have weights: values (E, 1) are what entries are
    multiplied by then, self-loops of the aggregation among them, else None; nodes: of rows and columns, by their ids in
    the batch's graph; place (V,): of the graph's nodes among them, -1 of others; graph: its structure.
    """

    net: Architecture
    rows: tuple[int, ...]
    first: Tensor
    start: Tensor
    indices: Tensor
    scale: Tensor | None
    values: Tensor | None
    targets: Tensor
    size: int
    nodes: Tensor
    place: Tensor
    graph: Adjacency
    precision: Precision
    uses: Counter[PassKind] = field(default_factory=Counter)  # so far
    captured: dict[PassKind, Any] = field(default_factory=dict)  # passes that are replayed (capture.py)

    @property
    def state_bytes(self) -> int:
        """About what the states of all layers take."""
        widths = (self.net.widths(layer)[1] * rows for layer, rows in enumerate(self.rows))
        return sum(widths) * self.first.element_size()

    @cached_property
    def host_targets(self) -> IntArray:
        """The targets on the host."""
        found: IntArray = self.targets.cpu().numpy()
        return found

    @property
    def local(self) -> Span:
        """All seed nodes."""
        return 0, len(self.targets)

    @property
    def column_scale(self) -> Tensor | None:
        """What columns are multiplied by; None for 1 everywhere."""
        return self.scale if self.net.aggregation is not None and self.net.aggregation.symmetric else None

    def columns(self, layer: int) -> int:
        """Nodes that a layer's rows sum up."""
        return self.rows[layer - 1] if layer else len(self.first)

    @property
    def summing(self) -> range:
        """Layers that sum up states by the structure."""
        return range(0 if self.net.aggregation is None else 1, len(self.rows))

    @cached_property
    def structures(self) -> dict[int, Csr]:
        """By layer: its rows, and the columns that they sum up."""
        if not self.summing:
            return {}
        whole = Csr.of(self.start[:-1], self.start[1:], self.indices)
        return {layer: whole.head(self.rows[layer]) for layer in self.summing}

    @cached_property
    def transposes(self) -> dict[int, Csr]:
        """By layer: of each of its columns, the layer's rows that sum it up; for gradients alone."""
        if self.values is not None:  # which differ there and back
            return self._sorted[0]
        if self.graph.symmetric is None:
            self.graph.symmetric = is_symmetric(self.graph.indptr, self.graph.indices)
        if self.net.aggregation is not None and self.graph.symmetric:
            return {layer: self._cut_transpose(layer) for layer in self.summing}
        return self._sorted[0]

    def weights(self, transposed: bool = False) -> Weights | None:
        """Values of the structure's entries, or the transposes', as sums take them."""
        if self.values is None:
            return None
        return Weights(self.values, self.places if transposed else None)

    @property
    def places(self) -> Tensor:
        """Where entries of the transposes stand in the structure, (E,); of GAT, and where entries have values."""
        return self._sorted[1]

    def _cut_transpose(self, layer: int) -> Csr:
        """From the batch's structure, which is its own transpose: neighbours that are among the layer's rows."""
        indptr, indices = self.graph.indptr, self.graph.indices
        columns, rows = self.nodes[: self.columns(layer)], self.rows[layer]
        loops = self.net.aggregation is not None and self.net.aggregation.loops
        start, entries = renumber(columns, indptr, indices, self.place, loops, below=rows)
        return Csr.of(start[:-1], start[1:], entries)

    @cached_property
    def _sorted(self) -> tuple[dict[int, Csr], Tensor]:
        """Transposes of any structure, and places of their entries."""
        if not self.summing:
            return {}, self.indices
        columns = self.columns(self.summing.start)
        sorted_, order = torch.sort(self.indices, stable=True)
        places = order.to(self.start.dtype)
        row = torch.searchsorted(self.start[1:], places, right=True, out_int32=True)
        ids = torch.arange(columns + 1, dtype=sorted_.dtype, device=sorted_.device)
        start = torch.searchsorted(sorted_, ids).to(self.start.dtype)
        found = {}
        for layer in self.summing:
            known, low, end = self.columns(layer), start[:-1], start[1:]
            if self.rows[layer] < self.rows[self.summing.start]:  # rows rise along a column's entries
                below = torch.zeros(len(row) + 1, dtype=self.start.dtype, device=row.device)
                torch.cumsum(row < self.rows[layer], 0, out=below[1:])
                end = low + below[start[1:].long()] - below[start[:-1].long()]
            found[layer] = Csr.of(low[:known], end[:known], row)
        return found, places


def make_plan(net: Architecture, batch: Batch, device: torch.device, precision: Precision) -> TritonPlan:
    """The plan of a batch, whose features and structure may be on the host; waits for the device."""
    graph, seeds = batch.graph.to(device), batch.seeds.to(device)
    adjacency, aggregation = graph.adjacency, net.aggregation
    structure, values = (adjacency, None) if adjacency.weight is None else _normalise(adjacency, aggregation)
    indptr, indices = structure.indptr, structure.indices
    order, counts = _find_frontiers(indptr, indices, seeds, net.layers - (aggregation is not None))
    kind = graph.x.dtype if graph.x.dtype == torch.float64 else KINDS[precision]
    if aggregation is None:
        first, rows, scale, inner = graph.x[order.long()].to(kind), counts[-2::-1], None, counts[-2]
    else:
        scale = _compute_scale(aggregation, graph) if values is None else None
        first, rows = _aggregate(graph, structure, values, aggregation, order, scale, kind), counts[::-1]
        scale, inner = None if scale is None else scale[order.long()], counts[-2] if len(counts) > 1 else 0
    if values is not None:
        values = values[list_entries(order[:inner], indptr)]
    place = torch.full((adjacency.nodes,), -1, dtype=indices.dtype, device=device)
    place[order.long()] = torch.arange(len(order), dtype=indices.dtype, device=device)
    loops = aggregation is None or aggregation.loops
    start, entries = renumber(order[:inner], indptr, indices, place, loops)
    targets, size = batch.targets.to(device), adjacency.nodes
    return TritonPlan(
        *(net, tuple(rows), first, start, entries, scale, values, targets, size, order, place, adjacency, precision)
    )


def _normalise(adjacency: Adjacency, aggregation: Aggregation | None) -> tuple[Adjacency, Tensor]:
    """Of edges with weights: the structure, self-loops last in their rows, and what its entries are multiplied by."""
    if aggregation is None:
        raise ValueError("a plan without an aggregation knows no weights of edges")
    # One of its own: the batch's would keep what is derived of it.
    weighted = Adjacency(adjacency.indptr, adjacency.indices, dtype=adjacency.dtype, weight=adjacency.weight)
    operator = weighted.gcn if aggregation.symmetric else weighted.mean
    return operator.adjacency, operator.values[:, None]


def _find_frontiers(indptr: Tensor, indices: Tensor, seeds: Tensor, hops: int) -> tuple[Tensor, list[int]]:
    """Nodes within 0, 1, ... hops of the seeds: in order, each hop's rising, and how many there are, (hops + 1,)."""
    flag = torch.zeros(len(indptr) - 1, dtype=torch.int8, device=indptr.device)
    flag[seeds] = 1
    reached = flag.bool()
    found = [seeds.to(indices.dtype)]
    for _ in range(hops):
        mark_neighbours(found[-1], indptr, indices, flag)
        new = flag.bool() & ~reached
        reached |= new
        found.append(new.nonzero()[:, 0].to(indices.dtype))
    counts = torch.tensor([len(each) for each in found]).cumsum(0).tolist()
    return torch.cat(found), counts


def _compute_scale(aggregation: Aggregation, graph: Subgraph) -> Tensor:
    """What a row is multiplied by, (V,): 1 / degree, or 1 / sqrt(degree with the loop)."""
    adjacency = graph.adjacency
    every = torch.arange(adjacency.nodes, dtype=adjacency.indices.dtype, device=adjacency.indices.device)
    degree = count_entries(every, adjacency.indptr, adjacency.indices, aggregation.loops)
    root = degree.clamp(min=1).to(graph.x.dtype)
    return 1 / (root.sqrt() if aggregation.symmetric else root)


def _aggregate(
    graph: Subgraph,
    structure: Adjacency,
    values: Tensor | None,
    aggregation: Aggregation,
    order: Tensor,
    scale: Tensor | None,
    kind: torch.dtype,
) -> Tensor:
    """The first sums of the nodes in that order, with their own features where the layer takes them."""
    x, ids = graph.x, order.long()
    width = (x if graph.hop is None else graph.hop).shape[1]
    out = torch.empty(len(order), 2 * width if aggregation.beside_own else width, dtype=kind, device=x.device)
    if graph.hop is not None:
        out[:, :width] = graph.hop[ids]
    else:
        if aggregation.loops and values is None:
            every = torch.arange(structure.nodes, dtype=order.dtype, device=order.device)
            start, entries = renumber(order, structure.indptr, structure.indices, every, True)
            csr = Csr.of(start[:-1], start[1:], entries)
        else:
            csr = Csr.of(structure.indptr[ids], structure.indptr[ids + 1], structure.indices)
        sum_rows(
            csr,
            x,
            out[:, :width],
            weights=None if values is None else Weights(values),
            row_scale=None if scale is None else scale[ids],
            column_scale=scale if aggregation.symmetric else None,
        )
    if aggregation.beside_own:
        out[:, width:] = x[ids]
    return out
