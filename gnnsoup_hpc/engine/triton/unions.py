"""A whole graph that is kept on the GPU, or in pinned host memory, and the unions of its parts, cut out on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.engine.triton.kernels import is_symmetric, list_entries, renumber
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
        targets = torch.zeros(whole.size, *whole.targets.shape[1:], dtype=whole.targets.dtype)
        targets[whole.seeds] = whole.targets
        graph = whole.graph.to(device) if resident else _pin(whole.graph, device)
        if resident and graph.adjacency.symmetric is None:  # then so are all unions
            graph.adjacency.symmetric = is_symmetric(graph.adjacency.indptr, graph.adjacency.indices)
        return cls(graph, structure.indptr.numpy(), flag.to(device), targets.to(device))

    def cut(self, runs: Sequence[Span]) -> Batch:
        """The subgraph induced by ranges of nodes, in rising order, as load_union reads it; waits for the device."""
        structure, device = self.graph.adjacency, self.flag.device
        kind = structure.indices.dtype
        ids = torch.cat([torch.arange(*run, device=device) for run in runs])
        place = torch.full((structure.nodes,), -1, dtype=kind, device=device)
        local = torch.arange(len(ids), dtype=kind, device=device)
        place[ids] = local
        if structure.indices.device == device:
            of = ids.to(kind), structure.indptr, structure.indices
        else:
            of = local, *self._fetch_rows(runs, device)
        start, kept = renumber(*of, place, False, below=len(ids))
        weight = None
        if structure.weight is not None:
            at = list_entries(of[0], of[1])
            there = structure.weight.device == device
            weights = structure.weight if there else _fetch(structure.weight, self._spans(runs), device)
            weight = weights[at[place[of[2][at].long()] >= 0]]

        def read(of: Tensor) -> Tensor:
            return of[ids] if of.device == device else _fetch(of, runs, device)

        hop = None if self.graph.hop is None else read(self.graph.hop)
        seeds = self.flag[ids].nonzero()[:, 0]
        adjacency = Adjacency(start, kept, symmetric=structure.symmetric or None, weight=weight)
        cut = Subgraph(read(self.graph.x), adjacency, hop)
        return Batch(cut, seeds, self.targets[ids[seeds]])

    def _fetch_rows(self, runs: Sequence[Span], device: torch.device) -> tuple[Tensor, Tensor]:
        """The structure of ranges of rows alone, by ids of the whole graph."""
        structure, read = self.graph.adjacency, 0
        starts = [structure.indptr.new_zeros(1, device=device)]
        for (first, last), (begin, end) in zip(runs, self._spans(runs), strict=True):
            starts.append(_fetch(structure.indptr, [(first + 1, last + 1)], device) + (read - begin))
            read += end - begin
        return torch.cat(starts), _fetch(structure.indices, self._spans(runs), device)

    def _spans(self, runs: Sequence[Span]) -> list[Span]:
        """Where the entries of ranges of rows stand."""
        return [(int(self.bounds[first]), int(self.bounds[last])) for first, last in runs]


def _fetch(of: Tensor, spans: Sequence[Span], device: torch.device) -> Tensor:
    """Ranges of what is in host memory, one after the other."""
    return torch.cat([of[slice(*span)].to(device, non_blocking=True) for span in spans])


def _pin(graph: Subgraph, device: torch.device) -> Subgraph:
    """In memory that a GPU copies from by itself."""
    if device.type != "cuda":
        return graph
    structure = graph.adjacency
    weight = None if structure.weight is None else structure.weight.pin_memory()
    ends, entries = structure.indptr.pin_memory(), structure.indices.pin_memory()
    pinned = Adjacency(ends, entries, symmetric=structure.symmetric, weight=weight)
    return Subgraph(graph.x.pin_memory(), pinned, None if graph.hop is None else graph.hop.pin_memory())
