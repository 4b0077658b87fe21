"""Exact inference on a graph that does not fit, of models whose layers cannot be told apart: by seeds' neighbourhoods.

A block of seed nodes is computed on all nodes that are within the model's hops, and one hop more, so that degrees are
those of the whole graph wherever a layer normalises by them. The structure is in memory, features are read as needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.engine.torch import TorchEngine
from gnnsoup_hpc.errors import MemoryLimitError
from gnnsoup_hpc.graph.sampling import EntryLookup, Sample, Sampler
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import IntArray, State

_MOST_SEEDS = 4096
_HUBS = 4
_FOLLOWING = 2  # times what the last block took that the next one may


def find_largest(graph: GraphFile, hops: int) -> Extent:
    """The largest that a node's neighbourhood can be expected to be: of the nodes with the most in-neighbours."""
    indptr = graph.bounds(0, graph.nodes)
    sampler, generator = Sampler(indptr, graph.neighbours(indptr)), np.random.default_rng(0)
    hubs = np.argsort(np.diff(indptr))[-_HUBS:]
    samples = [sampler.sample(hubs[[number]], [-1] * (hops + 1), generator) for number in range(len(hubs))]
    nodes, entries = max(len(each.nodes) for each in samples), max(len(each.indices) for each in samples)
    return Extent(nodes, entries, entries, 1)


class NeighbourhoodInference:
    """Of the nodes `wanted`, rising, within about `memory` bytes beside the structure."""

    def __init__(self, graph: GraphFile, net: Model, memory: int, device: torch.device, wanted: IntArray) -> None:
        if net.hops is None:
            raise ValueError(f"nothing is known of how far a model of kind {net.kind!r} reaches")
        self._graph, self._net, self._memory, self._device, self._wanted = graph, net, memory, device, wanted
        self._engine, self._fanouts = TorchEngine(), [-1] * (net.hops + 1)
        indptr = graph.bounds(0, graph.nodes)
        structure = indptr, graph.neighbours(indptr)
        self._sampler, self._generator = Sampler(*structure), np.random.default_rng(0)
        self._weights = graph.weights(indptr) if graph.weighted else None
        self._lookup = EntryLookup(structure) if graph.weighted or graph.edge_features else None

    @torch.no_grad()
    def scores(self, state: State) -> Iterator[tuple[int, Tensor]]:
        """(place among the wanted nodes, outputs (n, C) from there on), in order. Raises: MemoryLimitError."""
        state = {name: tensor.to(self._device) for name, tensor in state.items()}
        first, size = 0, 64
        while first < len(self._wanted):
            sample = self._sampler.sample(self._wanted[first : first + size], self._fanouts, self._generator)
            needed = self._estimate(sample)
            if needed > self._memory:
                if sample.seeds == 1:
                    raise MemoryLimitError(
                        f"the neighbourhood of one node, of {len(sample.nodes)} nodes, does not fit in what"
                        " machine.memory_limit leaves: raise it"
                    )
                size = max(1, sample.seeds // 2)
                continue
            x = torch.from_numpy(self._graph.x_of(sample.nodes))
            seeds = torch.arange(sample.seeds)
            batch = Batch(Subgraph(x, self._make_adjacency(sample)), seeds, seeds)
            plan = self._engine.plan(self._net, batch, device=self._device)
            yield first, self._engine.logits(plan, state)
            first += sample.seeds
            size = min(_MOST_SEEDS, 2 * size if _FOLLOWING * needed < self._memory else size)

    def _make_adjacency(self, sample: Sample) -> Adjacency:
        """The sample's structure, with its entries' values: weights are in memory, features are read."""
        weight = edge_attr = None
        if self._lookup is not None:
            places = self._lookup.find(sample)
            weight = None if self._weights is None else torch.from_numpy(self._weights[places])
            edge_attr = torch.from_numpy(self._graph.edge_attr_of(places)) if self._graph.edge_features else None
        ends = torch.from_numpy(sample.indptr), torch.from_numpy(sample.indices)
        return Adjacency(*ends, weight=weight, edge_attr=edge_attr)

    def _estimate(self, sample: Sample) -> int:
        nodes, entries = len(sample.nodes), len(sample.indices)
        extent = Extent(nodes, entries, entries, sample.seeds)
        return self._engine.memory(self._net, extent, mode="evaluate").total
