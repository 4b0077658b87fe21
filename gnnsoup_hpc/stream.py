"""From graph.h5 to what a model computes on: the whole graph, a union of parts, a stream of unions.

A union is read with a few contiguous slices, and never is more than one in memory; nothing here has the size of the
whole graph unless all parts are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from gnnsoup_hpc.kernels import Adjacency
from gnnsoup_hpc.records import IntArray, Role
from gnnsoup_hpc.rows import index_type
from gnnsoup_hpc.store.graph import GraphFile
from gnnsoup_hpc.subgraph import Subgraph, View


def whole(graph: GraphFile, role: Role) -> View:
    """The whole graph as `role` sees it."""
    return union_of_parts(graph, range(graph.parts), role)


def same_graph(graph: GraphFile, view: View, role: Role) -> View:
    """Another role's view of the whole graph that `view` holds, sharing its features and structure."""
    nodes = np.flatnonzero(graph.role(0, graph.nodes) == role)
    other = View(view.graph, torch.from_numpy(nodes), torch.from_numpy(graph.y(0, graph.nodes)[nodes]))
    return other.to(view.graph.x.device)


def union_of_parts(graph: GraphFile, chosen: Sequence[int], role: Role) -> View:
    """Subgraph induced by the union of `chosen` parts as `role` sees it; cut edges between them are kept.

    Shapes: x (V', F), adjacency (V', V') with V' the sum of the parts' sizes, nodes and labels (n,).
    Raises: PartError for a repeated or unknown part, naming it.
    Source: arXiv 2503.11612, section on Partition Learned Souping.
    """
    runs = graph.runs_of(chosen)
    starts = np.array([start for start, _ in runs], dtype=np.int64)
    sizes = np.array([stop - start for start, stop in runs], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    x = np.empty((int(offsets[-1]), graph.features), dtype=np.float32)
    counts, columns, nodes, labels = [], [], [], []
    for (start, stop), offset in zip(runs, offsets[:-1], strict=True):
        graph.x(start, stop, x[offset : offset + stop - start])
        degree, neighbours = graph.rows(start, stop)
        inside, local = _localised(neighbours, starts, sizes, offsets)
        counts.append(np.bincount(np.repeat(np.arange(stop - start), degree)[inside], minlength=stop - start))
        columns.append(local)
        mine = np.flatnonzero(graph.role(start, stop) == role)
        nodes.append(mine + offset)
        labels.append(graph.y(start, stop)[mine])
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    subgraph = Subgraph(torch.from_numpy(x), adjacency(indptr, np.concatenate(columns)))
    return View(subgraph, torch.from_numpy(np.concatenate(nodes)), torch.from_numpy(np.concatenate(labels)))


def draws(validation_counts: IntArray, size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Endless draws of `size` of K parts without replacement; a union with no validation node is drawn again."""
    parts = len(validation_counts)
    while True:
        chosen = generator.choice(parts, size, replace=False)
        if validation_counts[chosen].any():
            yield sorted(int(part) for part in chosen)


def _localised(
    neighbours: IntArray, starts: IntArray, sizes: IntArray, offsets: IntArray
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], IntArray]:
    """Which neighbours lie inside the runs, and their ids there."""
    run = np.searchsorted(starts, neighbours, side="right") - 1
    within = neighbours - starts[run]
    inside = (run >= 0) & (within < sizes[run])
    return inside, within[inside] + offsets[run[inside]]


def adjacency(indptr: IntArray, indices: IntArray) -> Adjacency:
    """A square structure, int32 where it holds: half the memory traffic, and what the sparse libraries compute in."""
    kind = index_type(len(indices))
    return Adjacency(torch.from_numpy(indptr.astype(kind)), torch.from_numpy(indices.astype(kind)))
