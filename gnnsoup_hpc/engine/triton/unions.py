"""A graph that stays on the device, and the unions of its parts, which are cut out there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.engine.triton.kernels import is_symmetric, renumber
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph


@dataclass(frozen=True)
class ResidentGraph:
    """The whole graph of `graph` and its seed nodes, both on the device."""

    graph: Subgraph
    flag: Tensor
    targets: Tensor

    @classmethod
    def of(cls, whole: Batch) -> ResidentGraph:
        """Of the whole graph with its seed nodes, rising."""
        flag = torch.zeros(whole.size, dtype=torch.bool, device=whole.graph.x.device)
        flag[whole.seeds] = True
        targets = torch.zeros(whole.size, dtype=whole.targets.dtype, device=flag.device)
        targets[whole.seeds] = whole.targets
        structure = whole.graph.adjacency
        if structure.symmetric is None:  # then so are all unions
            structure.symmetric = is_symmetric(structure.indptr, structure.indices)
        return cls(whole.graph, flag, targets)

    def cut(self, runs: Sequence[Span]) -> Batch:
        """The subgraph induced by ranges of nodes, in rising order, as load_union reads it; waits for the device."""
        indptr, indices = self.graph.adjacency.indptr, self.graph.adjacency.indices
        device = indices.device
        ids = torch.cat([torch.arange(*run, device=device, dtype=indices.dtype) for run in runs])
        place = torch.full((len(indptr) - 1,), -1, dtype=indices.dtype, device=device)
        size = 0
        for first, last in runs:
            place[first:last] = torch.arange(size, size + last - first, dtype=indices.dtype, device=device)
            size += last - first
        start, entries = renumber(ids, indptr, indices, place, False, below=size)

        def read(of: Tensor) -> Tensor:
            return torch.cat([of[slice(*run)] for run in runs])

        graph, hop = self.graph, None if self.graph.hop is None else read(self.graph.hop)
        structure = Adjacency(start, entries, symmetric=graph.adjacency.symmetric or None)
        seeds = read(self.flag).nonzero()[:, 0]
        return Batch(Subgraph(read(graph.x), structure, hop), seeds, read(self.targets)[seeds])
