"""Exact inference on a graph that does not fit: layer by layer, block of rows by block of rows.

A layer's output for a block of nodes needs the layer before on the block and on its in-neighbours alone. So memory
holds one block with its in-neighbours; what a layer has made of all nodes lies in memory while it is small, and in a
file of the run when it is not. Each row's sums run in the same order as on the whole graph in memory. What grows with
the graph are a few bytes a node: degrees and a map of ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.kernels import Adjacency
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import FloatArray, IntArray, State
from gnnsoup_hpc.rows import FileRows, index_type
from gnnsoup_hpc.store.graph import GraphFile
from gnnsoup_hpc.subgraph import Subgraph

_BYTES_AN_ENTRY = 40  # of the adjacency: int64 ids as read, their columns, CSR with values
_COPIES = 3  # of a row of states: as gathered, as multiplied, as put out


class Hidden(Protocol):
    """What one layer has made of all nodes, (V, width): in memory or in a file."""

    def take(self, ids: IntArray) -> FloatArray:
        """Rows of nodes `ids`."""

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""


@dataclass(frozen=True)
class InMemory:
    """Hidden states in memory."""

    rows: FloatArray

    def take(self, ids: IntArray) -> FloatArray:
        """Rows of nodes `ids`."""
        return self.rows[ids]

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""
        self.rows[start : start + len(block)] = block


@dataclass(frozen=True)
class Spilled:
    """Hidden states in a file."""

    rows: FileRows

    def take(self, ids: IntArray) -> FloatArray:
        """Rows of nodes `ids`."""
        return self.rows[ids]

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""
        self.rows.write(start, block)


@dataclass(frozen=True)
class Block:
    """Nodes start to stop - 1 and their in-neighbours. columns (U,): global ids of both, sorted."""

    start: int
    stop: int
    columns: IntArray
    adjacency: Adjacency


class Layerwise:
    """Inference within about `memory` bytes. Use it for one graph and architecture; `scratch` takes what must spill."""

    def __init__(
        self, graph: GraphFile, architecture: Architecture, memory: int, scratch: Path, device: torch.device
    ) -> None:
        self._graph = graph
        self._net = architecture
        self._scratch = scratch
        self._device = device
        widest = max(width for layer in range(architecture.layers) for width in architecture.widths(layer))
        self.spills = 2 * 4 * graph.nodes * architecture.hidden > memory // 2
        self._block_bytes = memory if self.spills else memory // 2
        self._row_bytes = 4 * widest * _COPIES
        self._entry_bytes = _BYTES_AN_ENTRY + 16 * (architecture.heads if architecture.kind == "gat" else 0)
        self._looped_degrees = _looped_degrees(graph) if architecture.kind == "gcn" else None
        self._local = np.zeros(graph.nodes, dtype=index_type(graph.nodes))

    @torch.no_grad()
    def logits(self, state: State, wanted: IntArray) -> Iterator[tuple[int, Tensor]]:
        """(first node, class scores (n, C)) of every block that has one of the nodes `wanted`, which are sorted."""
        hidden: Hidden | None = None
        state = {name: tensor.to(self._device) for name, tensor in state.items()}
        for layer in range(self._net.layers - 1):
            made = self.space(f"layer-{layer % 2}", self._graph.nodes, self._net.widths(layer)[1])
            for block in self._blocks():
                made.write(block.start, self._layer(state, layer, block, hidden).cpu().numpy())
            hidden = made
        for block in self._blocks(wanted):
            yield block.start, self._layer(state, self._net.layers - 1, block, hidden)

    def space(self, name: str, rows: int, width: int) -> Hidden:
        """Room for a matrix: a file of that name where things must spill, which replaces an older one."""
        if not self.spills:
            return InMemory(np.empty((rows, width), dtype=np.float32))
        return Spilled(FileRows.create(self._scratch / name, (rows, width)))

    def _layer(self, state: State, layer: int, block: Block, hidden: Hidden | None) -> Tensor:
        """One layer's output for a block, (n, C')."""
        rows = self._graph.x_of(block.columns) if hidden is None else hidden.take(block.columns)
        x = torch.from_numpy(rows).to(self._device)
        return self._net.layer(state, layer, x, Subgraph(x, block.adjacency.to(self._device)))

    def _blocks(self, wanted: IntArray | None = None) -> Iterator[Block]:
        """Parts, cut smaller where one with its in-neighbours would not fit; those with a wanted node."""
        for start, stop in zip(self._graph.ptr[:-1].tolist(), self._graph.ptr[1:].tolist(), strict=True):
            yield from self._halved(start, stop, wanted)

    def _halved(self, start: int, stop: int, wanted: IntArray | None) -> Iterator[Block]:
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

    def _block(self, start: int, stop: int, degree: IntArray, neighbours: IntArray, columns: IntArray) -> Block:
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
        return Block(start, stop, columns, adjacency)


def _looped_degrees(graph: GraphFile) -> FloatArray:
    """In-degree of each node with one self-loop, (V,) float32."""
    degrees = np.empty(graph.nodes, dtype=np.float32)
    for start, stop in zip(graph.ptr[:-1].tolist(), graph.ptr[1:].tolist(), strict=True):
        degree, neighbours = graph.rows(start, stop)
        row = np.repeat(np.arange(start, stop), degree)
        loops = np.bincount(row[row == neighbours] - start, minlength=stop - start)
        degrees[start:stop] = degree - loops + 1
    return degrees
