"""What a layer has made of its nodes: a matrix in memory, or in a file of the run when it is too large for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.compiled import threads
from gnnsoup_hpc.engine.compiled.kernels import rowwise, slabs
from gnnsoup_hpc.engine.compiled.passes import name_bias, name_weights
from gnnsoup_hpc.errors import MemoryLimitError
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.base import LayeredModel, Model
from gnnsoup_hpc.models.gnn import EPS, Architecture
from gnnsoup_hpc.types import ByteArray, FloatArray, IndexArray, IntArray, State
from gnnsoup_hpc.utils.out_of_core import FileRows, blocks, index_type

Slab = tuple[int, int, FloatArray]  # first row, row after the last, the rows


class StoredRows(Protocol):
    """A matrix (rows, width)."""

    def take(self, ids: IntArray) -> FloatArray:
        """Rows by ids."""

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""

    def slabs(self, slab_bytes: int) -> Iterator[Slab]:
        """All rows in order, about so many bytes at a time."""


@dataclass(frozen=True)
class MemoryRows:
    """A matrix in memory."""

    rows: FloatArray

    def take(self, ids: IntArray) -> FloatArray:
        """Rows by ids."""
        return self.rows[ids]

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""
        self.rows[start : start + len(block)] = block

    def slabs(self, slab_bytes: int) -> Iterator[Slab]:
        """All rows at once, for they are there."""
        yield 0, len(self.rows), self.rows


@dataclass(frozen=True)
class SpilledRows:
    """A matrix in a file."""

    rows: FileRows

    def take(self, ids: IntArray) -> FloatArray:
        """Rows by ids."""
        return self.rows[ids]

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""
        self.rows.write(start, block)

    def slabs(self, slab_bytes: int) -> Iterator[Slab]:
        """One slab at a time in memory."""
        count, width = self.rows.shape
        for slab in blocks(count, 4 * width, slab_bytes):
            yield slab.start, slab.stop, self.rows[slab]


def allocate(folder: Path, name: str, rows: int, width: int, in_memory: bool) -> StoredRows:
    """Room for a matrix; in a file it replaces an older one of that name. Raises: RunError where there is no room."""
    if in_memory:
        return MemoryRows(np.empty((rows, width), dtype=np.float32))
    return SpilledRows(FileRows.create(folder / name, (rows, width)))


# ---- structure
# The structure of a graph that is read from its file a piece at a time: which rows are needed, and blocks of them.

PIECE_ENTRIES = 1 << 22  # of the adjacency, read together
_PIECE_NODES = 1 << 18

Piece = tuple[int, int, IntArray]  # first node, node after the last, where their entries start


@dataclass(frozen=True)
class RowBlock:
    """Rows of one layer that are computed together, of nodes in rising order.

    Shapes: nodes (n,), start (n + 1,), entries (E,): in-neighbours as rows of what the layer before has made; own (n,):
    the nodes themselves there. first: the place of the block's first row among the layer's.
    """

    first: int
    nodes: IntArray
    own: IndexArray
    start: IntArray
    entries: IndexArray


def cut_pieces(graph: GraphFile, start: int, stop: int) -> Iterator[Piece]:
    """Nodes start to stop - 1, about PIECE_ENTRIES entries at a time."""
    while start < stop:
        indptr = graph.bounds(start, min(stop, start + _PIECE_NODES))
        count = int(np.searchsorted(indptr, indptr[0] + PIECE_ENTRIES, side="right")) - 1
        count = min(len(indptr) - 1, max(count, 1))
        yield start, start + count, indptr[: count + 1]
        start += count


def find_needed_rows(graph: GraphFile, wanted: IntArray, layers: int) -> tuple[ByteArray, ...]:
    """Of each layer, which nodes it must make for the last one to be known of `wanted`: flags (V,)."""
    needed = np.zeros(graph.nodes, dtype=np.uint8)
    needed[wanted] = 1
    found = [needed]
    for _ in range(layers - 1):
        reached = found[0].copy()
        for start, stop, indptr in cut_pieces(graph, 0, graph.nodes) if not found[0].all() else ():
            if found[0][start:stop].any():
                slabs.mark(indptr, graph.neighbours(indptr), found[0][start:stop], reached)
        found.insert(0, reached)
    return tuple(found)


def number_needed(needed: ByteArray) -> IndexArray:
    """Place of each node among those that are needed, (V,)."""
    kind = index_type(len(needed))
    place = np.cumsum(needed, dtype=kind)
    place -= 1
    return np.asarray(place)


def count_looped_degrees(graph: GraphFile) -> FloatArray:
    """In-degree of each node with one self-loop, (V,) float32."""
    degrees = np.empty(graph.nodes, dtype=np.float32)
    for start, stop, indptr in cut_pieces(graph, 0, graph.nodes):
        slabs.count_looped_degrees(indptr, graph.neighbours(indptr), start, degrees[start:stop])
    return degrees


def cut_spans(graph: GraphFile, needed: ByteArray, row_bytes: int, room: int) -> Iterator[tuple[int, int]]:
    """Ranges of nodes whose needed rows, and their entries, fill at most `room`; at least a node each."""
    entry_bytes = np.dtype(index_type(graph.nodes)).itemsize
    first, used = 0, 0
    for start, stop, indptr in cut_pieces(graph, 0, graph.nodes):
        cost = np.cumsum((row_bytes + (np.diff(indptr) + 1) * entry_bytes) * needed[start:stop])
        at = 0
        while at < stop - start:
            spent = int(cost[at - 1]) if at else 0
            fit = int(np.searchsorted(cost, spent + room - used, side="right"))
            if fit == stop - start:
                used += int(cost[-1]) - spent
                break
            fit = max(fit, at + (start + at == first))
            yield first, start + fit
            first, used, at = start + fit, 0, fit
    if first < graph.nodes:
        yield first, graph.nodes


def read_block(graph: GraphFile, span: tuple[int, int], needed: ByteArray, rank: IndexArray, loops: bool) -> RowBlock:
    """The needed rows of a range of nodes; rank (V,): places in what the layer before has made, empty = node ids."""
    first = int(np.count_nonzero(needed[: span[0]]))
    nodes = np.flatnonzero(needed[span[0] : span[1]]) + span[0]
    rows = list(cut_pieces(graph, *span))
    entries = np.empty(_entries(rows, needed) + loops * len(nodes), dtype=index_type(graph.nodes))
    start = np.zeros(len(nodes) + 1, dtype=np.int64)
    filled = 0
    for low, high, indptr in rows:
        if needed[low:high].any():
            mine = needed[low:high]
            filled = slabs.gather(indptr, graph.neighbours(indptr), mine, low, rank, loops, filled, start, entries)
    own = rank[nodes] if len(rank) else nodes.astype(entries.dtype)
    return RowBlock(first, nodes, own, start, entries[: start[-1]])


def _entries(rows: Sequence[Piece], needed: ByteArray) -> int:
    """Entries of the needed rows."""
    return sum(int(np.diff(indptr)[needed[low:high] > 0].sum()) for low, high, indptr in rows)


# ---- dense
# The dense part of a layer on a block of rows: products, bias, layer norm, ReLU.


@dataclass(frozen=True)
class DenseLayer:
    """What is done to a layer's sums once they are complete.

    A layer that narrows multiplies before it sums, so the layer before it hands on products, one for each of `handed`.
    Shapes: weight (width, C), or empty where the sums are of products already; bias (C,); norm two of (C,) or none;
    handed: (C, C') each.
    """

    width: int
    weight: FloatArray
    bias: FloatArray
    norm: tuple[FloatArray, ...]
    last: bool
    handed: tuple[FloatArray, ...]

    @property
    def out(self) -> tuple[int, ...]:
        """Widths of what is made of each row."""
        return tuple(matrix.shape[1] for matrix in self.handed) or (len(self.bias),)

    def finish(self, total: FloatArray, scale: FloatArray, outs: Sequence[FloatArray]) -> None:
        """Of a block's sums (n, ·), the first `width` columns still without their scale (n,), all of `outs`."""
        total[:, : self.width] *= scale[:, None]
        made = np.empty((len(total), len(self.bias)), dtype=np.float32) if self.handed else outs[0]
        more = made[:0]
        if self.weight.size:
            np.matmul(total, self.weight, out=made)
        else:
            np.copyto(made, total[:, : self.width])
            more = np.ascontiguousarray(total[:, self.width :]) if total.shape[1] > self.width else more
        rowwise.finish(made, more, self.bias, not self.last and not self.norm)
        if self.norm:
            weight, shift = self.norm
            rowwise.normalise(made, weight, shift, EPS, made[:0], made[:0, 0])
        for matrix, out in zip(self.handed, outs, strict=False):
            np.matmul(made, matrix, out=out)


def narrows(net: Architecture, layer: int) -> bool:
    """Whether a layer multiplies by its weights before it sums: where that is the cheaper order."""
    into, out = net.widths(layer)
    return 0 < layer < net.layers and out < into


def make_dense_layer(net: Architecture, state: Mapping[str, FloatArray], layer: int) -> DenseLayer:
    """The dense part of a layer."""
    weights = [state[name] for name in name_weights(net, layer)]
    into, out = net.widths(layer)
    products = narrows(net, layer)
    last = layer == net.layers - 1
    norm = (state[f"norms.{layer}.weight"], state[f"norms.{layer}.bias"]) if net.norm == "layer" and not last else ()
    return DenseLayer(
        width=out if products else into,
        weight=np.empty((0, 0), dtype=np.float32) if products else np.ascontiguousarray(np.concatenate(weights, 1).T),
        bias=state[name_bias(net, layer)],
        norm=norm,
        last=last,
        handed=tuple(np.ascontiguousarray(w.T) for w in (state[name] for name in name_weights(net, layer + 1)))
        if narrows(net, layer + 1)
        else (),
    )


# ---- sums
# Exact inference of GCN and GraphSAGE within bounded memory: layer by layer, the structure a block of rows at a time.
#
# A block's sums lie in memory while what the layer before has made goes by, slab after slab in the order of its rows:
# all of it at once where it is in memory, else read in order from a file of the run, or for the first layer from
# graph.h5. So a layer reads its input once a block, and a block is as large as the bound allows. Only rows that the
# wanted nodes depend on are computed, and a layer that narrows multiplies before it sums. What grows with the graph
# besides are a few bytes a node. Sums run along rows in their order, so a bound changes no more than their rounding.

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
        self._needed = find_needed_rows(graph, wanted, net.layers)
        self._counts = [int(np.count_nonzero(needed)) for needed in self._needed]
        self._degrees = count_looped_degrees(graph) if net.kind == "gcn" else np.empty(0, dtype=np.float32)
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
        rank = number_needed(self._needed[layer - 1]) if layer else np.empty(0, dtype=np.int32)
        scale = self._column_scale(layer)
        row_bytes = 4 * (how.width * self._parts + sum(how.out)) + ROW_BYTES

        def made(span: tuple[int, int]) -> tuple[int, tuple[FloatArray, ...]]:
            block = read_block(self._graph, span, needed, rank, self._net.kind == "gcn")
            return block.first, self._made(how, block, source, scale, team)

        for span in cut_spans(self._graph, needed, row_bytes, room):
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


# ---- attention
# Exact inference of any model, on any device, within bounded memory: layer by layer, block of rows by block of rows.
#
# A layer's output for a block of nodes needs the layer before on the block and on its in-neighbours alone. So memory
# holds one block with its in-neighbours; what a layer has made of all nodes lies in memory while it is small, and in
# a file of the run when it is not. Each row's sums run in the same order as on the whole graph in memory. What grows
# with the graph are a few bytes a node: degrees and a map of ids. GAT and models on a GPU are evaluated so; sums.py
# is faster.

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


# ---- out of core
# Exact inference on a graph that does not fit, layer by layer.

__all__ = ["Layerwise", "is_linear", "make_layerwise"]


class Layerwise(Protocol):
    """Inference within a memory bound on one graph, for one architecture and set of wanted nodes."""

    def scores(self, state: State) -> Iterator[tuple[int, Tensor]]:
        """(place among the wanted nodes, class scores (n, C) from there on), in order."""

    def space(self, name: str, rows: int, width: int) -> StoredRows:
        """Room for a matrix: in memory, or in a file."""


def is_linear(net: Model, device: torch.device) -> bool:
    """Whether the fast way serves: sums with weights that no model learns, by the compiled engine's layers."""
    return isinstance(net, Architecture) and net.kind in ("gcn", "sage") and device.type == "cpu"


def make_layerwise(
    graph: GraphFile, net: Model, memory: int, scratch: Path, device: torch.device, wanted: IntArray
) -> Layerwise:
    """Inference within about `memory` bytes for the nodes `wanted`, rising; the folder `scratch` takes what spills.

    Raises: MemoryLimitError for a model whose layers cannot be computed one by one.
    """
    if not isinstance(net, LayeredModel):
        raise MemoryLimitError(
            f"a model of kind {net.kind!r} cannot be evaluated layer by layer, and the whole graph does not fit: raise"
            " machine.memory_limit"
        )
    if isinstance(net, Architecture) and is_linear(net, device):
        return SumsLayerwise(graph, net, memory, scratch, wanted)
    return GeneralLayerwise(graph, net, memory, scratch, device, wanted)
