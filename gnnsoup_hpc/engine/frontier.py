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
    write_means_beside_own,
    write_normalised_sums,
)
from gnnsoup_hpc.engine.sharding import Scale, Shard
from gnnsoup_hpc.engine.threads import ROW_WORK, Span, ThreadTeam
from gnnsoup_hpc.graph.subgraph import Aggregation, Batch, Subgraph
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.types import FloatArray, IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import BufferPool

ReadRows = Callable[[IntArray], FloatArray]  # features of the nodes of some ids


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
    no first sums are made. scale (U,): what a row is multiplied by; empty without an aggregation. size: nodes of the
    subgraph. shard: which rows are this rank's. nodes: those of the rows, or of the first layer's columns where their
    features are in `first`, by their ids in the subgraph; empty where they are not named.
    """

    rows: tuple[int, ...]
    first: Tensor | sp.csr_matrix
    start: IndexArray
    indices: IndexArray
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
    """
    graph = batch.graph
    if graph.adjacency.weight is not None:
        raise ValueError("a frontier knows no weights of edges")
    rows_of = graph.adjacency.indptr.numpy(), graph.adjacency.indices.numpy()
    features = graph.features if keep_sparse and graph.hop is None else graph.x
    summed = aggregation is not None and isinstance(features, Tensor)
    work = row_work or [ROW_WORK] * (depth + (not summed))
    kind = features.numpy().dtype if isinstance(features, Tensor) else features.dtype
    scale = _compute_scale(aggregation, *rows_of, kind) if aggregation else np.empty(0, dtype=np.float32)
    comm, read_rows = (division.comm, division.read_rows) if division else (SERIAL, None)
    shard = Shard.of(rows_of, scale, batch.seeds.numpy(), work, comm.rank, comm.size, first_sums=summed)
    counts = shard.counts[::-1] if summed else shard.counts[-2::-1]
    loops = aggregation.loops if aggregation else loops
    start, indices = structure.renumber(
        shard.indptr, shard.indices, shard.order[: shard.inner], shard.place, loops=loops
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
        scale=shard.scale[shard.order] if aggregation else scale,
        targets=batch.targets,
        size=graph.adjacency.nodes,
        shard=shard.bare,
        nodes=_name_nodes(shard) if name_nodes else shard.order[:0],
        sums_first=summed,
    )


def _compute_scale(aggregation: Aggregation, indptr: IndexArray, indices: IndexArray, dtype: Any) -> Scale:
    """What a row is multiplied by, (V,): 1 / degree, or 1 / sqrt(degree with the loop)."""
    degree = count_looped_degrees(indptr, indices, 0) if aggregation.loops else np.maximum(np.diff(indptr), 1)
    root: Scale = degree.astype(dtype)
    if aggregation.symmetric:
        np.sqrt(root, out=root)
    return np.divide(1, root, out=root)


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

    def fill(first: int, last: int) -> None:
        if hop is None:
            kernel(first, last, shard.order, shard.indptr, shard.indices, shard.scale, x, out)
        else:
            copy_side_by_side(first, last, shard.order, hop, own, out)

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
