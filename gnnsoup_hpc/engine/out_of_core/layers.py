"""Exact inference on a graph that does not fit, layer by layer, within bounded memory.

What a layer has made of its nodes is a matrix in memory, or in a file of the run when it is too large for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine import threads
from gnnsoup_hpc.engine.compiled.kernels import rowwise, slabs, structure, sums
from gnnsoup_hpc.engine.frontier import invert_roots
from gnnsoup_hpc.engine.out_of_core.module_layers import ModuleLayers, find_layers
from gnnsoup_hpc.engine.out_of_core.neighbourhoods import NeighbourhoodInference
from gnnsoup_hpc.errors import MemoryLimitError
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.base import LayeredModel, Model
from gnnsoup_hpc.models.gnn import EPS, Architecture, find_norm, name_bias, name_weights
from gnnsoup_hpc.types import ByteArray, FloatArray, IndexArray, IntArray, State
from gnnsoup_hpc.utils.out_of_core import FileRows, blocks, index_type

Matrix = FloatArray | FileRows  # (rows, width)
Slab = tuple[int, int, FloatArray]  # first row, row after the last, the rows


def allocate(folder: Path, name: str, rows: int, width: int, in_memory: bool) -> Matrix:
    """Room for a matrix; in a file it replaces an older one of that name. Raises: RunError where there is no room."""
    if in_memory:
        return np.empty((rows, width), dtype=np.float32)
    return FileRows.create(folder / name, (rows, width))


def cut_slabs(matrix: Matrix, slab_bytes: int) -> Iterator[Slab]:
    """All rows in order: at once where they are in memory, else about so many bytes at a time."""
    count, width = matrix.shape
    for slab in blocks(count, 4 * width, slab_bytes) if isinstance(matrix, FileRows) else [slice(0, count)]:
        yield slab.start, slab.stop, matrix[slab]


def read_slabs(graph: GraphFile, slab_bytes: int) -> Iterator[Slab]:
    """The features of all nodes in order, about so many bytes at a time."""
    for low, high in threads.blocks(0, graph.nodes, max(1, slab_bytes // (4 * max(1, graph.features)))):
        yield low, high, graph.x(low, high)


# ---- structure
# The structure of a graph that is read from its file a piece at a time: which rows are needed, and blocks of them.

PIECE_ENTRIES = 1 << 22  # of the adjacency, read together
_PIECE_NODES = 1 << 18
WEIGHT = 4  # bytes of what an entry is multiplied by, where edges have weights

Piece = tuple[int, int, IntArray]  # first node, node after the last, where their entries start
RowBlock = tuple[int, IntArray, IndexArray, IntArray, IndexArray, FloatArray]  # as `read_block` says


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


def count_looped_degrees(graph: GraphFile) -> IndexArray:
    """In-degree of each node with exactly one self-loop, (V,)."""
    degrees = np.empty(graph.nodes, dtype=index_type(graph.nodes + 1))
    for start, stop, indptr in cut_pieces(graph, 0, graph.nodes):
        degrees[start:stop] = sums.count_looped_degrees(indptr, graph.neighbours(indptr), start)
    return degrees


def sum_looped_weights(graph: GraphFile) -> FloatArray:
    """Sum of the weights of each node's in-edges, with a self-loop of weight 1 where it has none, (V,) float32."""
    found = np.empty(graph.nodes, dtype=np.float32)
    for start, stop, indptr in cut_pieces(graph, 0, graph.nodes):
        found[start:stop] = sums.sum_looped_weights(indptr, graph.neighbours(indptr), graph.weights(indptr), start)
    return found


def find_scale(graph: GraphFile) -> FloatArray:
    """What GCN multiplies columns and rows by, 1 / sqrt(degree with the loop), (V,) float32."""
    degrees = sum_looped_weights(graph) if graph.weighted else count_looped_degrees(graph)
    return invert_roots(degrees.astype(np.float32, copy=False))


def cut_spans(graph: GraphFile, needed: ByteArray, row_bytes: int, room: int) -> Iterator[tuple[int, int]]:
    """Ranges of nodes whose needed rows, and their entries, fill at most `room`; at least a node each."""
    entry_bytes = np.dtype(index_type(graph.nodes)).itemsize + WEIGHT * graph.weighted
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


def read_block(
    graph: GraphFile, span: tuple[int, int], needed: ByteArray, rank: IndexArray, loops: bool, scale: FloatArray
) -> RowBlock:
    """The needed rows of a range of nodes; rank (V,): places in what the layer before has made, empty = node ids.

    They are: the place of the first among the layer's rows; their nodes (n,), rising; own (n,), the nodes as rows of
    what the layer before has made; start (n + 1,), entries (E,): their in-neighbours as such rows; values (E,): what
    these are multiplied by, of length 0 where edges have no weights.
    scale: of such rows, by which weights are normalised; of length 0: they are divided by their row's sum.
    """
    first = int(np.count_nonzero(needed[: span[0]]))
    nodes = np.flatnonzero(needed[span[0] : span[1]]) + span[0]
    rows = list(cut_pieces(graph, *span))
    count = sum(int(np.diff(indptr)[needed[low:high] > 0].sum()) for low, high, indptr in rows)
    entries = np.empty(count + loops * len(nodes), dtype=index_type(graph.nodes))
    values = np.empty(len(entries) * graph.weighted, dtype=np.float32)
    start = np.zeros(len(nodes) + 1, dtype=np.int64)
    filled = 0
    for low, high, indptr in rows:
        if needed[low:high].any():
            mine, weights = needed[low:high], graph.weights(indptr) if graph.weighted else values
            filled = structure.gather(
                *(indptr, graph.neighbours(indptr), weights, mine, low, rank, loops, filled, start, entries, values)
            )
    own = rank[nodes] if len(rank) else nodes.astype(entries.dtype)
    if graph.weighted:
        structure.normalise(start, entries, own, scale, values)
    return first, nodes, own, start, entries[: start[-1]], values[: start[-1]]


# ---- dense
# The dense part of a layer on a block of rows: products, bias, layer norm, ReLU.


class DenseLayer:
    """What is done to a layer's sums once they are complete.

    A layer that narrows multiplies before it sums, so the layer before it hands on products, one for each of `handed`.
    Shapes: weight (width, C), or empty where the sums are of products already; bias (C,); norm two of (C,) or none;
    handed: (C, C') each. out: widths of what is made of each row.
    """

    def __init__(self, net: Architecture, state: Mapping[str, FloatArray], layer: int) -> None:
        self.last = layer == net.layers - 1
        into, out = net.widths(layer)
        self.width, self.weight = out, np.empty((0, 0), dtype=np.float32)
        if not narrows(net, layer):
            weights = [state[name] for name in name_weights(net, layer)]
            self.width, self.weight = into, np.ascontiguousarray(np.concatenate(weights, 1).T)
        self.bias = state[name_bias(net, layer)]
        self.norm = find_norm(state, layer)
        following = name_weights(net, layer + 1) if narrows(net, layer + 1) else []
        self.handed = [np.ascontiguousarray(state[name].T) for name in following]
        self.out = [matrix.shape[1] for matrix in self.handed] or [out]

    def finish(self, total: FloatArray, scale: FloatArray, outs: Sequence[FloatArray]) -> None:
        """Of a block's sums (n, ·), the first `width` columns still without their scale (n,), if any, all of `outs`."""
        if len(scale):
            total[:, : self.width] *= scale[:, None]
        states = np.empty((len(total), len(self.bias)), dtype=np.float32) if self.handed else outs[0]
        made = np.empty_like(states) if self.norm else states
        more = made[:0]
        if self.weight.size:
            np.matmul(total, self.weight, out=made)
        else:
            np.copyto(made, total[:, : self.width])
            more = np.ascontiguousarray(total[:, self.width :]) if total.shape[1] > self.width else more
        rowwise.finish(made, more, self.bias, not self.last and not self.norm)
        if self.norm:
            rowwise.normalise(made, EPS, made[:0, 0])
            rowwise.activate(made, *self.norm, states)
        for matrix, out in zip(self.handed, outs, strict=False):
            np.matmul(states, matrix, out=out)


def narrows(net: Architecture, layer: int) -> bool:
    """Whether a layer multiplies by its weights before it sums: where that is the cheaper order."""
    into, out = net.widths(layer)
    return 0 < layer < net.layers and out < into


# ---- sums
# Exact inference of GCN and GraphSAGE on a CPU, the structure a block of rows at a time.
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


class SumsLayerwise:
    """Inference within about `memory` bytes on one graph, for one architecture and set of wanted nodes (rising)."""

    def __init__(self, graph: GraphFile, net: Architecture, memory: int, scratch: Path, wanted: IntArray) -> None:
        self._graph, self._net, self._memory, self._scratch = graph, net, memory, scratch
        self._needed = find_needed_rows(graph, wanted, net.layers)
        self._loops = net.kind == "gcn"
        self._parts = 2 if net.kind == "sage" else 1  # of a row's sums: GraphSAGE has the node's own row beside them
        self._scale = find_scale(graph) if self._loops else np.empty(0, dtype=np.float32)
        self._slab = min(max(memory // 16, SLAB_BYTES[0]), SLAB_BYTES[1])

    @torch.no_grad()
    def scores(self, state: State) -> Iterator[tuple[int, Tensor]]:
        """(place among the wanted nodes, class scores (n, C) from there on), in order."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
        below: list[Matrix] = []  # what neighbours have and, where that differs, what nodes themselves have
        filled = 0
        with threads.ThreadTeam() as team:
            for layer in range(self._net.layers):
                how = DenseLayer(self._net, arrays, layer)
                made, more = self._room(layer, how, filled)
                room = max(_LEAST_ROOM, self._memory - filled - more - 2 * self._slab)
                for first, outs in self._layer(layer, how, below, room, team):
                    if how.last:
                        yield first, torch.from_numpy(outs[0])
                    for number, matrix in enumerate(made):
                        matrix[first : first + len(outs[number])] = outs[number]
                    del outs  # before the next block is read
                below, filled = made, more

    def _room(self, layer: int, how: DenseLayer, filled: int) -> tuple[list[Matrix], int]:
        """Where a layer's results go, and the bytes of them that are in memory; the last one's are handed out."""
        if how.last:
            return [], 0
        rows = int(np.count_nonzero(self._needed[layer]))
        size = 4 * rows * sum(how.out)
        in_memory = fits_in_memory(self._memory, filled, size)
        names = (f"layer-{layer % 2}-{number}" for number in range(len(how.out)))
        made = [
            allocate(self._scratch, name, rows, width, in_memory) for name, width in zip(names, how.out, strict=True)
        ]
        return made, size if in_memory else 0

    def _layer(
        self, layer: int, how: DenseLayer, below: Sequence[Matrix], room: int, team: threads.ThreadTeam
    ) -> Iterator[tuple[int, list[FloatArray]]]:
        """Place of the first row of each block of a layer, and what is made of the block."""
        needed, scale = self._needed[layer], self._scale
        place = np.empty(0, dtype=np.int32)  # of each node among the rows of the layer before
        if layer:
            place = np.cumsum(self._needed[layer - 1], dtype=index_type(self._graph.nodes))
            place -= 1
            scale = scale[self._needed[layer - 1] > 0] if len(scale) else scale
        row_bytes = 4 * (how.width * self._parts + sum(how.out)) + ROW_BYTES
        for span in cut_spans(self._graph, needed, row_bytes, room):
            if needed[span[0] : span[1]].any():  # a block has no name here, or two would be there while one is read
                rows = needed, place, self._loops, scale
                yield self._compute(how, read_block(self._graph, span, *rows), below, scale, team)

    def _compute(
        self, how: DenseLayer, block: RowBlock, below: Sequence[Matrix], scale: FloatArray, team: threads.ThreadTeam
    ) -> tuple[int, list[FloatArray]]:
        place, nodes, own, start, entries, values = block
        total = np.zeros((len(nodes), how.width * self._parts), dtype=np.float32)
        outs = [np.empty((len(nodes), width), dtype=np.float32) for width in how.out]
        cursor, chunks = start[:-1].copy(), threads.cut_chunks(start)
        if self._graph.weighted:
            rows = self._scale[:0]
        else:
            rows = self._scale[nodes] if self._loops else (1 / np.maximum(np.diff(start), 1)).astype(np.float32)

        def add(first: int, last: int, slab: Slab, x_own: FloatArray) -> None:
            low, high, x = slab
            slabs.add(first, last, cursor, start[1:], entries, values, scale, low, high, x, total)
            if self._parts == 2:
                here = slice(*(first + np.searchsorted(own[first:last], [low, high])))
                total[here, x.shape[1] :] = x_own[own[here] - low]

        def finish(first: int, last: int) -> None:
            for a, b in threads.blocks(first, last, ROWS):
                how.finish(total[a:b], rows[a:b], [out[a:b] for out in outs])

        sources = [cut_slabs(matrix, self._slab) for matrix in below] or [read_slabs(self._graph, self._slab)]
        for each in zip(*sources, strict=True):
            team.each(partial(add, slab=each[0], x_own=each[-1][2]), chunks)
        team.each(finish, chunks)
        return place, outs


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


# ---- attention
# Exact inference of any model, on any device, block of rows by block of rows.
#
# A layer's output for a block of nodes needs the layer before on the block and on its in-neighbours alone. So memory
# holds one block with its in-neighbours. Each row's sums run in the same order as on the whole graph in memory. What
# grows with the graph are a few bytes a node: degrees and a map of ids. GAT and models on a GPU are evaluated so;
# sums, as above, are faster.

_BYTES_AN_ENTRY = 40  # of the adjacency: int64 ids as read, their columns, CSR with values
_BYTES_A_WEIGHT = 8  # with and without self-loops
_COPIES = 3  # of a row of states: as gathered, as multiplied, as put out


NeighbourhoodBlock = tuple[int, int, IntArray, Adjacency]  # nodes start to stop - 1; ids (U,) of columns, which rise


class GeneralLayerwise:
    """Inference within about `memory` bytes on one graph, for one model and set of wanted nodes (rising)."""

    def __init__(
        self,
        graph: GraphFile,
        net: LayeredModel | ModuleLayers,
        memory: int,
        scratch: Path,
        device: torch.device,
        wanted: IntArray,
    ) -> None:
        self._graph, self._net, self._scratch, self._device, self._wanted = graph, net, scratch, device, wanted
        widths = [net.widths(layer) for layer in range(net.layers)]
        hidden = max((out for _, out in widths[:-1]), default=0)
        self._spills = 2 * 4 * graph.nodes * hidden > memory // 2
        self._block_bytes = memory if self._spills else memory // 2
        self._row_bytes = 4 * max(max(each) for each in widths) * _COPIES
        if isinstance(net, ModuleLayers):
            self._row_bytes = net.node_bytes
        self._entry_bytes = _BYTES_AN_ENTRY + net.entry_values + _BYTES_A_WEIGHT * graph.weighted
        self._entry_bytes += 2 * 4 * graph.edge_features
        loops = net.aggregation is not None and net.aggregation.loops
        count = sum_looped_weights if graph.weighted else count_looped_degrees
        self._looped_degrees = torch.from_numpy(count(graph)).float() if loops else None
        self._local = np.zeros(graph.nodes, dtype=index_type(graph.nodes))

    @torch.no_grad()
    def scores(self, state: State) -> Iterator[tuple[int, Tensor]]:
        """(place among the wanted nodes, class scores (n, C) from there on), in order."""
        hidden: Matrix | None = None
        state = {name: tensor.to(self._device) for name, tensor in state.items()}
        for layer in range(self._net.layers - 1):
            width = self._net.widths(layer)[1]
            made = allocate(self._scratch, f"layer-{layer % 2}", self._graph.nodes, width, not self._spills)
            for start, stop, columns, adjacency in self._blocks():
                made[start:stop] = self._layer(state, layer, columns, adjacency, hidden).cpu().numpy()
            hidden = made
        for start, stop, columns, adjacency in self._blocks(self._wanted):
            first, last = np.searchsorted(self._wanted, [start, stop])
            mine = torch.from_numpy(self._wanted[first:last] - start).to(self._device)
            yield int(first), self._layer(state, self._net.layers - 1, columns, adjacency, hidden)[mine]

    def _layer(
        self, state: State, layer: int, columns: IntArray, adjacency: Adjacency, hidden: Matrix | None
    ) -> Tensor:
        """One layer's output for a block, (n, C')."""
        rows = self._graph.x_of(columns) if hidden is None else hidden[columns]
        x = torch.from_numpy(rows).to(self._device)
        return self._net.layer(state, layer, x, Subgraph(x, adjacency.to(self._device)))

    def _blocks(self, wanted: IntArray | None = None) -> Iterator[NeighbourhoodBlock]:
        """Parts, cut smaller where one with its in-neighbours would not fit; those with a wanted node."""
        spans = list(pairwise(self._graph.ptr.tolist()))[::-1]
        while spans:
            start, stop = spans.pop()
            if wanted is not None and np.searchsorted(wanted, start) == np.searchsorted(wanted, stop):
                continue
            degree, neighbours = self._graph.rows(start, stop)
            there = np.zeros(self._graph.nodes, dtype=np.bool_)
            there[neighbours] = True
            there[start:stop] = True
            columns = np.flatnonzero(there)
            needed = len(columns) * self._row_bytes + len(neighbours) * self._entry_bytes
            if needed <= self._block_bytes or stop - start == 1:
                yield start, stop, columns, self._join(start, stop, degree, neighbours, columns)
            else:
                middle = (start + stop) // 2
                spans += [(middle, stop), (start, middle)]
            del degree, neighbours, columns  # before the next are read

    def _join(self, start: int, stop: int, degree: IntArray, neighbours: IntArray, columns: IntArray) -> Adjacency:
        self._local[columns] = np.arange(len(columns), dtype=self._local.dtype)
        kind, weighted = index_type(len(neighbours)), self._graph.weighted
        indptr = np.concatenate([[0], np.cumsum(degree)]).astype(kind)
        bounds = self._graph.bounds(start, stop)
        weight = torch.from_numpy(self._graph.weights(bounds)) if weighted else None
        edge_attr = None
        if self._graph.edge_features:
            edge_attr = torch.from_numpy(self._graph.edge_attr(int(bounds[0]), int(bounds[-1])))
        return Adjacency(
            torch.from_numpy(indptr),
            torch.from_numpy(self._local[neighbours].astype(kind, copy=False)),
            columns=len(columns),
            offset=int(np.searchsorted(columns, start)),
            looped_degrees=None if self._looped_degrees is None else self._looped_degrees[columns],
            weight=weight,
            edge_attr=edge_attr,
        )


# ---- choice

Layerwise = SumsLayerwise | GeneralLayerwise | NeighbourhoodInference


def make_layerwise(
    graph: GraphFile, net: Model, memory: int, scratch: Path, device: torch.device, wanted: IntArray
) -> Layerwise:
    """Inference within about `memory` bytes for the nodes `wanted`, rising; the folder `scratch` takes what spills.

    By the nodes' neighbourhoods where layers cannot be computed one by one.
    Raises: MemoryLimitError where it is not known how far these reach, or they have no end.
    """
    layers = find_layers(net)
    if layers is None:
        if why := net.find_far_reach():
            raise MemoryLimitError(f"the whole graph does not fit, and {why}: raise machine.memory_limit")
        return NeighbourhoodInference(graph, net, memory, device, wanted)
    if isinstance(net, Architecture) and net.kind in ("gcn", "sage") and device.type == "cpu":
        return SumsLayerwise(graph, net, memory, scratch, wanted)
    return GeneralLayerwise(graph, layers, memory, scratch, device, wanted)
