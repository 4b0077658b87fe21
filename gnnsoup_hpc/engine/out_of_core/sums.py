"""Exact inference of GCN and GraphSAGE within bounded memory: layer by layer, the structure a block of rows at a time.

A block's sums lie in memory while what the layer before has made goes by, slab after slab in the order of its rows: all
of it at once where it is in memory, else read in order from a file of the run, or for the first layer from graph.h5. So
a layer reads its input once a block, and a block is as large as the bound allows. Only rows that the wanted nodes
depend on are computed, and a layer that narrows multiplies before it sums. What grows with the graph besides are a few
bytes a node. Sums run along rows in their order, so a bound changes no more than their rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.compiled import threads
from gnnsoup_hpc.engine.compiled.kernels import slabs
from gnnsoup_hpc.engine.out_of_core import structure
from gnnsoup_hpc.engine.out_of_core.dense import DenseLayer, make_dense_layer, narrows
from gnnsoup_hpc.engine.out_of_core.held import Slab, StoredRows, allocate
from gnnsoup_hpc.engine.out_of_core.structure import RowBlock
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import FloatArray, IntArray, State

ROWS = 2048  # whose dense products are made together, on one thread
ROW_BYTES = 40  # of a block besides its sums: ids, starts, cursors
SLAB_BYTES = (1 << 16, 1 << 26)  # the smallest, the largest
_LEAST_ROOM = 1 << 14  # of a block, whatever the bound: each reads all that the layer before has made


@dataclass(frozen=True)
class _Source:
    """What a layer sums up: a matrix for neighbours' rows, another for the nodes' own where they differ."""

    neighbours: StoredRows | None = None  # features where there is none
    own: StoredRows | None = None


class SumsLayerwise:
    """Inference within about `memory` bytes on one graph, for one architecture and set of wanted nodes (rising)."""

    def __init__(self, graph: GraphFile, net: Architecture, memory: int, scratch: Path, wanted: IntArray) -> None:
        self._graph, self._net, self._memory, self._scratch = graph, net, memory, scratch
        self._needed = structure.find_needed_rows(graph, wanted, net.layers)
        self._counts = [int(np.count_nonzero(needed)) for needed in self._needed]
        self._degrees = structure.count_looped_degrees(graph) if net.kind == "gcn" else np.empty(0, dtype=np.float32)
        self._slab = min(max(memory // 16, SLAB_BYTES[0]), SLAB_BYTES[1])

    @torch.no_grad()
    def scores(self, state: State) -> Iterator[tuple[int, Tensor]]:
        """(place among the wanted nodes, class scores (n, C) from there on), in order."""
        with threads.ThreadTeam() as team:
            yield from self._scores({name: tensor.detach().cpu().numpy() for name, tensor in state.items()}, team)

    def _scores(self, arrays: Mapping[str, FloatArray], team: threads.ThreadTeam) -> Iterator[tuple[int, Tensor]]:
        source, filled = _Source(), 0
        for layer in range(self._net.layers):
            how = make_dense_layer(self._net, arrays, layer)
            made, more = self._room(layer, how, filled)
            room = max(_LEAST_ROOM, self._memory - filled - more - 2 * self._slab)
            for first, outs in self._layer(layer, how, source, room, team):
                if how.last:
                    yield first, torch.from_numpy(outs[0])
                for number, store in enumerate(made):
                    store.write(first, outs[number])
                del outs  # before the next block is read
            source, filled = _Source(*made), more

    def _room(self, layer: int, how: DenseLayer, filled: int) -> tuple[list[StoredRows], int]:
        """Where a layer's results go, and the bytes of them that are in memory; the last one's are handed out."""
        if how.last:
            return [], 0
        size = 4 * self._counts[layer] * sum(how.out)
        in_memory = fits_in_memory(self._memory, filled, size)
        names = [f"layer-{layer % 2}-{number}" for number in range(len(how.out))]
        rows = self._counts[layer]
        made = [allocate(self._scratch, name, rows, out, in_memory) for name, out in zip(names, how.out, strict=True)]
        return made, size if in_memory else 0

    def space(self, name: str, rows: int, width: int) -> StoredRows:
        """Room for a matrix that lasts."""
        return allocate(self._scratch, name, rows, width, in_memory=32 * rows * width < self._memory)

    def _layer(
        self, layer: int, how: DenseLayer, source: _Source, room: int, team: threads.ThreadTeam
    ) -> Iterator[tuple[int, tuple[FloatArray, ...]]]:
        """Place of the first row of each block of a layer, and what is made of the block."""
        needed = self._needed[layer]
        rank = structure.number_needed(self._needed[layer - 1]) if layer else np.empty(0, dtype=np.int32)
        scale = self._column_scale(layer)
        row_bytes = 4 * (how.width * self._parts + sum(how.out)) + ROW_BYTES

        def made(span: tuple[int, int]) -> tuple[int, tuple[FloatArray, ...]]:
            block = structure.read_block(self._graph, span, needed, rank, self._net.kind == "gcn")
            return block.first, self._made(how, block, source, scale, team)

        for span in structure.cut_spans(self._graph, needed, row_bytes, room):
            if needed[span[0] : span[1]].any():
                yield made(span)  # kept under no name, or two blocks would be in memory while one is read

    @property
    def _parts(self) -> int:
        """Pieces that a row's sums consist of: GraphSAGE has the node's own row beside its neighbours'."""
        return 2 if self._net.kind == "sage" else 1

    def _made(
        self, how: DenseLayer, block: RowBlock, source: _Source, scale: FloatArray, team: threads.ThreadTeam
    ) -> tuple[FloatArray, ...]:
        total = np.zeros((len(block.nodes), how.width * self._parts), dtype=np.float32)
        outs = tuple(np.empty((len(block.nodes), width), dtype=np.float32) for width in how.out)
        cursor, chunks = block.start[:-1].copy(), threads.cut_chunks(block.start)
        rows = self._row_scale(block)

        def finish(first: int, last: int) -> None:
            for a, b in threads.blocks(first, last, ROWS):
                how.finish(total[a:b], rows[a:b], tuple(out[a:b] for out in outs))

        for slab, own in zip(self._slabs(source.neighbours), self._own(source), strict=False):
            self._add_slab(team, chunks, block, cursor, scale, slab, own, total)
        team.each(finish, chunks)
        return outs

    def _add_slab(
        self,
        team: threads.ThreadTeam,
        chunks: tuple[threads.Span, ...],
        block: RowBlock,
        cursor: IntArray,
        scale: FloatArray,
        slab: Slab,
        own: Slab | None,
        total: FloatArray,
    ) -> None:
        low, high, x = slab

        def add(first: int, last: int) -> None:
            slabs.add(first, last, cursor, block.start[1:], block.entries, scale, low, high, x, total)
            if self._parts == 2:
                slabs.take(first, last, block.own, low, high, x if own is None else own[2], total, x.shape[1])

        team.each(add, chunks)

    def _slabs(self, source: StoredRows | None) -> Iterator[Slab]:
        if source is not None:
            yield from source.slabs(self._slab)
            return
        step = max(1, self._slab // (4 * self._graph.features))
        for low, high in threads.blocks(0, self._graph.nodes, step):
            x = np.empty((high - low, self._graph.features), dtype=np.float32)
            self._graph.x(low, high, x)
            yield low, high, x

    def _own(self, source: _Source) -> Iterator[Slab | None]:
        """The nodes' own rows in step with their neighbours'; None where they are the same."""
        if source.own is not None:
            yield from source.own.slabs(self._slab)
        while source.own is None:
            yield None

    def _column_scale(self, layer: int) -> FloatArray:
        """What the rows of the layer before are multiplied by; empty = 1."""
        if self._net.kind != "gcn" or layer == 0:
            return _inverse_root(self._degrees)
        return _inverse_root(self._degrees[self._needed[layer - 1] > 0])

    def _row_scale(self, block: RowBlock) -> FloatArray:
        if self._net.kind == "gcn":
            return _inverse_root(self._degrees[block.nodes])
        return (1 / np.maximum(np.diff(block.start), 1)).astype(np.float32)


def fits_in_memory(memory: int, filled: int, size: int) -> bool:
    """Whether a layer's results stay in memory beside `filled` bytes of the layer before: room must be left to work."""
    return 4 * (filled + size) <= 3 * memory


def stored_widths(net: Architecture) -> list[int]:
    """Channels a node of what each layer but the last hands on."""
    parts = 2 if net.kind == "sage" else 1
    return [
        parts * net.widths(layer + 1)[1] if narrows(net, layer + 1) else net.widths(layer)[1]
        for layer in range(net.layers - 1)
    ]


def _inverse_root(degrees: FloatArray) -> FloatArray:
    return np.asarray(1 / np.sqrt(degrees), dtype=np.float32)
