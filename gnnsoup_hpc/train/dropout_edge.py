"""Edge dropping (DropEdge; Rong et al., ICLR 2020, arXiv 1907.10903): each step of training leaves some edges out.

Each edge is left out or not by itself, with the probability `rate`; the source takes a subset of a fixed size. An edge
and its reverse go together, so an undirected graph stays one. What decides is a hash of the edge's ends and the step's
key, so nothing but the key is drawn, and the result is the same on any device and any number of threads.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph

# splitmix64's, as signed numbers: Steele, Lea and Flood, OOPSLA 2014.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_BITS = 31


def dropout_edge(view: Batch, rate: float, key: int) -> Batch:
    """The view without the edges that the step of this key leaves out; degrees are those of what remains.

    The first hop is computed anew, for it is not that of the whole view. `key` is in [0, 2^63).
    """
    return replace(view, graph=Subgraph(view.graph.x, _thinned(view.graph.adjacency, rate, key)))


def _thinned(adjacency: Adjacency, rate: float, key: int) -> Adjacency:
    kept = _numbers(adjacency, key) >= round(rate * 2**_BITS)
    counts = torch.bincount(adjacency.row[kept], minlength=adjacency.nodes)
    indptr = torch.zeros_like(adjacency.indptr)
    torch.cumsum(counts, 0, out=indptr[1:])
    return Adjacency(indptr, adjacency.indices[kept])


def _numbers(adjacency: Adjacency, key: int) -> Tensor:
    """A number in [0, 2^31) of each entry, the same for its reverse, (E,) int64."""
    row, column = adjacency.row, adjacency.indices
    mixed = _mixed(torch.minimum(row, column).to(torch.int64).mul_(_GOLDEN).add_(key))
    mixed = _mixed(mixed.add_(torch.maximum(row, column).to(torch.int64).mul_(_GOLDEN)))
    return mixed.bitwise_and_(2**_BITS - 1)


def _mixed(z: Tensor) -> Tensor:
    """splitmix64's finaliser, in place; shifts are logical, products wrap round."""
    z.bitwise_xor_((z >> 30).bitwise_and_(2**34 - 1)).mul_(_FIRST)
    z.bitwise_xor_((z >> 27).bitwise_and_(2**37 - 1)).mul_(_SECOND)
    return z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))
