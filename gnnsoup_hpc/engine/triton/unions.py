"""A whole graph that is kept on the GPU, or in pinned host memory, and the unions of its parts, cut out on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.engine.triton.kernels import renumber
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.types import IntArray


@dataclass(frozen=True)
class HeldGraph:
    """The whole graph.

    Shapes: bounds (V + 1,), where rows begin, on the host; flag (V,), whether a node is a seed node, and targets (V,),
    on the device, where unions are made.
    """

    graph: Subgraph
    bounds: IntArray
    flag: Tensor
    targets: Tensor

    @classmethod
    def of(cls, whole: Batch, device: torch.device, resident: bool) -> HeldGraph:
        """Of a batch on the host. resident: on the device; else in pinned memory, where the device is a GPU."""
        structure = whole.graph.adjacency
        flag = torch.zeros(whole.size, dtype=torch.bool)
        flag[whole.seeds] = True
        targets = torch.zeros(whole.size, dtype=whole.targets.dtype)
        targets[whole.seeds] = whole.targets
        graph = whole.graph.to(device) if resident else _pin(whole.graph, device)
        return cls(graph, structure.indptr.numpy(), flag.to(device), targets.to(device))

    def cut(self, runs: Sequence[Span]) -> Batch:
        """The subgraph induced by ranges of nodes, in rising order, as load_union reads it; waits for the device."""
        structure, device = self.graph.adjacency, self.flag.device
        indptr, indices = structure.indptr, structure.indices
        place = torch.full((structure.nodes,), -1, dtype=indices.dtype, device=device)
        starts, entries, size, read = [indptr.new_zeros(1, device=device)], [], 0, 0
        for first, last in runs:
            begin, end = int(self.bounds[first]), int(self.bounds[last])
            entries.append(_fetch(indices, begin, end, device))
            starts.append(_fetch(indptr, first + 1, last + 1, device) + (read - begin))
            place[first:last] = torch.arange(size, size + last - first, dtype=indices.dtype, device=device)
            size, read = size + last - first, read + end - begin
        rows = torch.arange(size, dtype=indices.dtype, device=device)
        start, kept = renumber(rows, torch.cat(starts), torch.cat(entries), place, False, below=size)

        def read_rows(of: Tensor) -> Tensor:
            return torch.cat([_fetch(of, first, last, device) for first, last in runs])

        graph, hop = self.graph, None if self.graph.hop is None else read_rows(self.graph.hop)
        seeds = read_rows(self.flag).nonzero()[:, 0]
        cut = Subgraph(read_rows(graph.x), Adjacency(start, kept, symmetric=structure.symmetric or None), hop)
        return Batch(cut, seeds, read_rows(self.targets)[seeds])


def _fetch(of: Tensor, first: int, last: int, device: torch.device) -> Tensor:
    return of[first:last].to(device, non_blocking=True)


def _pin(graph: Subgraph, device: torch.device) -> Subgraph:
    """In memory that a GPU copies from by itself."""
    if device.type != "cuda":
        return graph
    structure = graph.adjacency
    pinned = Adjacency(structure.indptr.pin_memory(), structure.indices.pin_memory(), symmetric=structure.symmetric)
    return Subgraph(graph.x.pin_memory(), pinned, None if graph.hop is None else graph.hop.pin_memory())
