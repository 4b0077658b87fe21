"""What a loss or a metric needs of a batch, and no more, for any engine: built once, used by every state.

Nodes are ordered by their distance, along in-edges, from the seed nodes. So what layer l makes is needed of the first
rows[l] nodes alone, the rows of a layer come first among its columns, and one CSR structure holds every layer's. Where
the first layer sums up features with fixed weights, those sums depend on no weight, and are made here. (PyG and DGL
call such a structure a message flow graph.) Of several ranks, each has the frontier of its share, where the rows of
others are empty until their ranks send them (sharding.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.compiled.kernels.sums import (
    copy_side_by_side,
    count_looped_degrees,
    sum_looped_weights,
    write_means_beside_own,
    write_normalised_sums,
    write_weighted_sums,
)
from gnnsoup_hpc.engine.sharding import Scale, Shard
from gnnsoup_hpc.engine.threads import ROW_WORK, Span, ThreadTeam
from gnnsoup_hpc.graph.subgraph import Aggregation, Batch, Subgraph
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.types import FloatArray, IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import BufferPool

ReadRows = Callable[[IntArray], FloatArray]  # features of the nodes of some ids
_Entries = tuple[IndexArray, IndexArray, Scale]  # CSR, and values of its entries, of length 0 where they have none


@dataclass(frozen=True)
class Division:
    """This rank's share of a batch that ranks compute on together, each on its own nodes.

    comm: exchanges halo rows between two layers. read_rows: gives features by node, where the batch holds none.
    """

    comm: Comm
    read_rows: ReadRows | None = None


@dataclass(frozen=True)
class Frontier:
    """Shapes: rows (L,), those that each layer makes; targets (n, ...), of all seeds; start (R + 1,), indices (E,).

    first: what the first weights multiply. Where the first sums are made here (`sums_first`), those, (rows[0], width):
    [mean(x) | x] of GraphSAGE, GCN's normalised sum; else the features of the first layer's columns, (U, F), of sparse
    ones a SciPy CSR matrix. start, indices: CSR, row = destination, of the rows after the first layer, or of all where
    no first sums are made. scale (U,): what a row is multiplied by; empty without an aggregation. values (E,): where
    edges have weights, what an entry is multiplied by, self-loops of the aggregation among them; scale is empty then;
    else empty. size: nodes of the subgraph. shard: which rows are this rank's. nodes: those of the rows, or of the
    first layer's columns where their features are in `first`, by their ids in the subgraph; empty where they are not
    named.
    """

    rows: tuple[int, ...]
    first: Tensor | sp.csr_matrix
    start: IndexArray
    indices: IndexArray
    values: Scale
    scale: Scale
    targets: Tensor
    size: int
    shard: Shard
    nodes: IndexArray
    sums_first: bool

    @property
    def host_targets(self) -> IntArray:
        """Of all seeds, (n, ...)."""
        found: IntArray = self.targets.numpy()
        return found

    @property
    def local(self) -> Span:
        """Which of all seed nodes are this rank's."""
        return self.shard.seeds

    def columns(self, layer: int) -> int:
        """Nodes that a layer's rows sum up."""
        return self.rows[layer - 1] if layer else self.first.shape[0]


def find_frontier(
    batch: Batch,
    aggregation: Aggregation | None,
    depth: int,
    *,
    loops: bool = False,
    division: Division | None = None,
    row_work: Sequence[int] | None = None,
    name_nodes: bool = False,
    keep_sparse: bool = False,
) -> Frontier:
    """The frontier of `depth` layers of a batch on the CPU, whose seeds rise, or of a rank's share.

    Nothing of the batch is kept but its targets; `first` takes its memory from the batch's pool, if it has one. Where
    the division reads rows, features of the nodes that are needed are asked of it, and the batch's are not used.
    loops: without an aggregation, whether exactly one self-loop a node is put into the structure. row_work: as in
    `Shard.of`, from which ranks get about equal work; (depth,), or where no first sums are made (depth + 1,), first of
    the columns. name_nodes: whether the frontier says which nodes its rows are. keep_sparse: sparse features are given
    as such, without first sums, which would hardly be sparse.
    Raises: ValueError for weights of edges without an aggregation.
    """
    graph = batch.graph
    features = graph.features if keep_sparse and graph.hop is None else graph.x
    summed, weighted = aggregation is not None and isinstance(features, Tensor), graph.adjacency.weight is not None
    rows_of, scale = _normalise(graph, aggregation) if weighted else _find_scale(graph, aggregation)
    work = row_work or [ROW_WORK] * (depth + (not summed))
    comm, read_rows = (division.comm, division.read_rows) if division else (SERIAL, None)
    shard = Shard.of(rows_of, scale, batch.seeds.numpy(), work, comm.rank, comm.size, first_sums=summed)
    counts = shard.counts[::-1] if summed else shard.counts[-2::-1]
    loops = (aggregation.loops if aggregation else loops) and not weighted  # whose loops are there
    start, indices, values = structure.renumber(
        shard.indptr, shard.indices, shard.values, shard.order[: shard.inner], shard.place, loops
    )
    if summed and aggregation is not None:
        first = _aggregate(graph, aggregation, shard, read_rows)
    else:
        first = _gather(features, shard, read_rows)
    return Frontier(
        rows=tuple(int(count) for count in counts),
        first=first,
        start=start,
        indices=indices,
        values=values,
        scale=shard.scale[shard.order] if len(scale) else scale,
        targets=batch.targets,
        size=graph.adjacency.nodes,
        shard=shard.bare,
        nodes=_name_nodes(shard) if name_nodes else shard.order[:0],
        sums_first=summed,
    )


def _find_scale(graph: Subgraph, aggregation: Aggregation | None) -> tuple[_Entries, Scale]:
    """The structure, and what a row is multiplied by, (V,): 1 / degree, or 1 / sqrt(degree with the loop)."""
    indptr, indices = graph.adjacency.indptr.numpy(), graph.adjacency.indices.numpy()
    none: Scale = np.empty(0, dtype=_find_type(graph))
    if aggregation is None:
        return (indptr, indices, none), none
    degree = count_looped_degrees(indptr, indices, 0) if aggregation.loops else np.maximum(np.diff(indptr), 1)
    root: Scale = degree.astype(none.dtype)
    if aggregation.symmetric:
        np.sqrt(root, out=root)
    return (indptr, indices, none), np.divide(1, root, out=root)


def _normalise(graph: Subgraph, aggregation: Aggregation | None) -> tuple[_Entries, Scale]:
    """Of edges with weights: the structure with self-loops, and what its entries are multiplied by; rows by nothing."""
    adjacency = graph.adjacency
    if aggregation is None or adjacency.weight is None:
        raise ValueError("a frontier without an aggregation knows no weights of edges")
    kind, nodes = _find_type(graph), adjacency.nodes
    indptr, indices = adjacency.indptr.numpy(), adjacency.indices.numpy()
    weights = adjacency.weight.numpy().astype(kind, copy=False)
    start, entries = np.zeros_like(indptr), np.empty(len(indices) + aggregation.loops * nodes, dtype=indices.dtype)
    values: Scale = np.empty(len(entries), dtype=kind)
    everyone = np.ones(nodes, dtype=np.uint8)
    structure.gather(indptr, indices, weights, everyone, 0, indices[:0], aggregation.loops, 0, start, entries, values)
    none: Scale = np.empty(0, dtype=kind)
    scale = invert_roots(sum_looped_weights(indptr, indices, weights, 0)) if aggregation.symmetric else none
    structure.normalise(start, entries, np.arange(nodes), scale, values)
    return (start, entries[: start[-1]], values[: start[-1]]), none


def _find_type(graph: Subgraph) -> Any:
    """Of its features' numbers."""
    return graph.features.numpy().dtype if isinstance(graph.features, Tensor) else graph.features.dtype


def invert_roots(degree: Scale) -> Scale:
    """1 / sqrt(degree), (n,); 0 where that is 0."""
    root = np.sqrt(degree)
    return np.divide(1, root, out=np.zeros_like(root), where=root > 0)


def _aggregate(graph: Subgraph, aggregation: Aggregation, shard: Shard, read_rows: ReadRows | None) -> Tensor:
    """The first sums of the shard's rows, with their own features where the layer takes them; of others', nothing."""
    ids = slice(None) if shard.ids is None else shard.ids
    hop = None if graph.hop is None else graph.hop.numpy()[ids]
    x = graph.x.numpy()[ids] if read_rows is None else read_rows(np.arange(graph.adjacency.nodes)[ids])
    width = x.shape[1] if hop is None else hop.shape[1]
    shape = len(shard.order), 2 * width if aggregation.beside_own else width
    out = (graph.pool or BufferPool()).array("first", shape, shard.scale.dtype)
    own = x if aggregation.beside_own else np.empty((len(x), 0), dtype=x.dtype)
    kernel = write_means_beside_own if aggregation.beside_own else write_normalised_sums
    entries = shard.order, shard.indptr, shard.indices

    def fill(first: int, last: int) -> None:
        if hop is not None:
            copy_side_by_side(first, last, shard.order, hop, own, out)
        elif graph.adjacency.weight is not None:
            write_weighted_sums(first, last, *entries, shard.values, x, out)
        else:
            kernel(first, last, *entries, shard.scale, x, out)

    with ThreadTeam() as team:
        team.each(fill, [span for spans in shard.sections for span in spans])
    return torch.from_numpy(out)


def _gather(features: Tensor | sp.csr_matrix, shard: Shard, read_rows: ReadRows | None) -> Tensor | sp.csr_matrix:
    """Features of the first layer's columns, in the frontier's order."""
    ids = _name_nodes(shard)
    if not isinstance(features, Tensor):
        return features[ids]
    return torch.from_numpy(features.numpy()[ids] if read_rows is None else read_rows(ids.astype(np.int64)))


def _name_nodes(shard: Shard) -> IndexArray:
    """The frontier's nodes in its order."""
    return shard.order if shard.ids is None else shard.ids[shard.order]
