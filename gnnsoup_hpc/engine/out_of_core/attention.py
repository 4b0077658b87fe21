"""Exact inference of any model, on any device, within bounded memory: layer by layer, block of rows by block of rows.

A layer's output for a block of nodes needs the layer before on the block and on its in-neighbours alone. So memory
holds one block with its in-neighbours; what a layer has made of all nodes lies in memory while it is small, and in a
file of the run when it is not. Each row's sums run in the same order as on the whole graph in memory. What grows with
the graph are a few bytes a node: degrees and a map of ids. GAT and models on a GPU are evaluated so; sums.py is faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.out_of_core.held import StoredRows, allocate
from gnnsoup_hpc.engine.out_of_core.structure import count_looped_degrees
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.base import LayeredModel
from gnnsoup_hpc.types import IntArray, State
from gnnsoup_hpc.utils.out_of_core import index_type

_BYTES_AN_ENTRY = 40  # of the adjacency: int64 ids as read, their columns, CSR with values
_COPIES = 3  # of a row of states: as gathered, as multiplied, as put out


@dataclass(frozen=True)
class NeighbourhoodBlock:
    """Nodes start to stop - 1 and their in-neighbours. columns (U,): global ids of both, sorted."""

    start: int
    stop: int
    columns: IntArray
    adjacency: Adjacency


class GeneralLayerwise:
    """Inference within about `memory` bytes on one graph, for one architecture and set of wanted nodes (rising)."""

    def __init__(
        self,
        graph: GraphFile,
        architecture: LayeredModel,
        memory: int,
        scratch: Path,
        device: torch.device,
        wanted: IntArray,
    ) -> None:
        self._wanted = wanted
        self._graph = graph
        self._net = architecture
        self._scratch = scratch
        self._device = device
        widest = max(width for layer in range(architecture.layers) for width in architecture.widths(layer))
        hidden = max((architecture.widths(layer)[1] for layer in range(architecture.layers - 1)), default=0)
        self.spills = 2 * 4 * graph.nodes * hidden > memory // 2
        self._block_bytes = memory if self.spills else memory // 2
        self._row_bytes = 4 * widest * _COPIES
        self._entry_bytes = _BYTES_AN_ENTRY + architecture.entry_values
        self._looped_degrees = (
            count_looped_degrees(graph) if architecture.aggregation and architecture.aggregation.loops else None
        )
        self._local = np.zeros(graph.nodes, dtype=index_type(graph.nodes))

    @torch.no_grad()
    def scores(self, state: State) -> Iterator[tuple[int, Tensor]]:
        """(place among the wanted nodes, class scores (n, C) from there on), in order."""
        hidden: StoredRows | None = None
        state = {name: tensor.to(self._device) for name, tensor in state.items()}
        for layer in range(self._net.layers - 1):
            made = self.space(f"layer-{layer % 2}", self._graph.nodes, self._net.widths(layer)[1])
            for block in self._blocks():
                made.write(block.start, self._layer(state, layer, block, hidden).cpu().numpy())
            hidden = made
        for block in self._blocks(self._wanted):
            first, last = np.searchsorted(self._wanted, [block.start, block.stop])
            mine = torch.from_numpy(self._wanted[first:last] - block.start).to(self._device)
            yield int(first), self._layer(state, self._net.layers - 1, block, hidden)[mine]

    def space(self, name: str, rows: int, width: int) -> StoredRows:
        """Room for a matrix: a file of that name where things must spill, which replaces an older one."""
        return allocate(self._scratch, name, rows, width, in_memory=not self.spills)

    def _layer(self, state: State, layer: int, block: NeighbourhoodBlock, hidden: StoredRows | None) -> Tensor:
        """One layer's output for a block, (n, C')."""
        rows = self._graph.x_of(block.columns) if hidden is None else hidden.take(block.columns)
        x = torch.from_numpy(rows).to(self._device)
        return self._net.layer(state, layer, x, Subgraph(x, block.adjacency.to(self._device)))

    def _blocks(self, wanted: IntArray | None = None) -> Iterator[NeighbourhoodBlock]:
        """Parts, cut smaller where one with its in-neighbours would not fit; those with a wanted node."""
        for start, stop in zip(self._graph.ptr[:-1].tolist(), self._graph.ptr[1:].tolist(), strict=True):
            yield from self._halved(start, stop, wanted)

    def _halved(self, start: int, stop: int, wanted: IntArray | None) -> Iterator[NeighbourhoodBlock]:
        if wanted is not None and np.searchsorted(wanted, start) == np.searchsorted(wanted, stop):
            return
        degree, neighbours = self._graph.rows(start, stop)
        columns = self._columns(start, stop, neighbours)
        needed = len(columns) * self._row_bytes + len(neighbours) * self._entry_bytes
        if needed > self._block_bytes and stop - start > 1:
            del degree, neighbours, columns
            middle = (start + stop) // 2
            yield from self._halved(start, middle, wanted)
            yield from self._halved(middle, stop, wanted)
            return
        yield self._block(start, stop, degree, neighbours, columns)

    def _columns(self, start: int, stop: int, neighbours: IntArray) -> IntArray:
        """Global ids of a block and its in-neighbours, sorted."""
        there = np.zeros(self._graph.nodes, dtype=np.bool_)
        there[neighbours] = True
        there[start:stop] = True
        return np.flatnonzero(there)

    def _block(
        self, start: int, stop: int, degree: IntArray, neighbours: IntArray, columns: IntArray
    ) -> NeighbourhoodBlock:
        self._local[columns] = np.arange(len(columns), dtype=self._local.dtype)
        kind = index_type(len(neighbours))
        indptr = np.concatenate([[0], np.cumsum(degree)]).astype(kind)
        adjacency = Adjacency(
            torch.from_numpy(indptr),
            torch.from_numpy(self._local[neighbours].astype(kind, copy=False)),
            columns=len(columns),
            offset=int(np.searchsorted(columns, start)),
            looped_degrees=None if self._looped_degrees is None else torch.from_numpy(self._looped_degrees[columns]),
        )
        return NeighbourhoodBlock(start, stop, columns, adjacency)
