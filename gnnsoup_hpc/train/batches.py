"""What an epoch's steps are taken on: the whole graph, unions of parts, or sampled neighbourhoods.

Every kind also has batches to validate on between epochs: the whole graph in memory; for mini-batches each union of
parts by itself (edges to other unions are cut), so that no more than a union is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count, pairwise
from typing import Any, Protocol, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnsoup_hpc.data import loader
from gnnsoup_hpc.data.loader import Bag, FindSeeds, Roles
from gnnsoup_hpc.data.sampling import Drawn, draw_compiled_samples
from gnnsoup_hpc.engine import Plan
from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.graph import sampling
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.io.first_aggregation import FirstAggregationFile
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.types import FloatArray, IndexArray, IntArray, Role
from gnnsoup_hpc.utils.counter import derive_keys

MakePlan = Callable[[Batch], Plan]
Edit = Callable[[Batch, int], Batch]  # what a step, counted from 0 in each epoch, makes of its batch
CPU = torch.device("cpu")
_BITS = 31


class Batches(Protocol):
    """What is trained on and validated on, one batch at a time in memory."""

    def epoch(self, generator: np.random.Generator, edit: Edit | None = None) -> Iterator[Plan | None]:
        """The batches of an epoch's steps; None where another rank has it."""

    def validation(self) -> Iterator[Plan]:
        """Batches that hold all validation nodes."""

    def draw_bag(self, share: float, key: int) -> Batches:
        """The same with steps on a share of the training nodes alone, the same of one key in each kind of batches."""


def dropout_edge(view: Batch, rate: float, key: int) -> Batch:
    """The view without the edges that the step of this key leaves out; degrees are those of what remains.

    Each edge is left out or not by itself, with the probability `rate`, where the source takes a subset of a fixed
    size; an edge and its reverse go together. A hash of its ends and of `key`, in [0, 2^63), decides, so the result is
    the same on any device and any number of threads. The first hop is computed anew.
    Source: DropEdge, Rong et al., ICLR 2020, arXiv 1907.10903.
    """
    adjacency = view.graph.adjacency
    kept = _hash_entries(adjacency, key) >= round(rate * 2**_BITS)
    counts = torch.bincount(adjacency.row[kept], minlength=adjacency.nodes)
    indptr = torch.zeros_like(adjacency.indptr)
    torch.cumsum(counts, 0, out=indptr[1:])
    weight, edge_attr = (None if each is None else each[kept] for each in (adjacency.weight, adjacency.edge_attr))
    left = Adjacency(indptr, adjacency.indices[kept], weight=weight, edge_attr=edge_attr)
    return replace(view, graph=Subgraph(view.graph.features, left))


def drop_features(view: Batch, rate: float, key: int) -> Batch:
    """The view without the input features that the step of this key leaves out, of all nodes alike.

    Each is left out or not by itself, with the probability `rate`, by a hash of its column and of `key`, in [0, 2^63);
    others are scaled by 1 / (1 - rate). Sums over neighbours that are there already are scaled with them.
    Source: masking node features, Zhu et al., GRACE, arXiv 2006.04131, section 3.2.1, which scales none.
    """
    graph, hop = view.graph, view.graph.hop
    columns = torch.arange(graph.features.shape[1] if hop is None else hop.shape[1])
    kept = derive_keys(key, columns).bitwise_and_(2**_BITS - 1) >= round(rate * 2**_BITS)
    scale = (kept / (1.0 - rate)).to(torch.float32)
    hop = None if hop is None else hop * scale.to(hop.device)
    return replace(view, graph=replace(graph, features=_scale_columns(graph.features, scale), hop=hop))


def _scale_columns(x: Tensor | sp.csr_matrix, scale: Tensor) -> Tensor | sp.csr_matrix:
    """Features, if they are there, times a factor of each column, (F,)."""
    if not x.shape[1]:
        return x
    if isinstance(x, Tensor):
        return x * scale.to(x.device)
    return sp.csr_matrix((x.data * scale.numpy()[x.indices], x.indices, x.indptr), x.shape)


def _hash_entries(adjacency: Adjacency, key: int) -> Tensor:
    """A number in [0, 2^31) of each entry, the same for its reverse, (E,) int64."""
    row, column = adjacency.row, adjacency.indices
    mixed = derive_keys(derive_keys(key, torch.minimum(row, column)), torch.maximum(row, column))
    return mixed.bitwise_and_(2**_BITS - 1)


@dataclass(frozen=True)
class FullBatches:
    """One step an epoch on the whole graph. `train` and `validate` share features and structure; plan: of a batch."""

    graph: GraphFile
    train: Batch
    validate: Batch
    plan: MakePlan

    def epoch(self, generator: np.random.Generator, edit: Edit | None = None) -> Iterator[Plan]:
        """The batches of an epoch's steps, each with training nodes, one at a time in memory."""
        yield self._train if edit is None else self.plan(edit(self.train, 0))

    def validation(self) -> Iterator[Plan]:
        """Batches that hold all validation nodes, one at a time in memory; here with all that they depend on."""
        yield self._validation

    def draw_bag(self, share: float, key: int) -> FullBatches:
        """As in `Batches`; their plan is made once."""
        seeds, targets = self.train.seeds, self.train.targets
        ids = self.graph.original_ids(0, self.graph.nodes)[seeds.cpu().numpy()]
        kept = torch.from_numpy(Bag.draw(ids, share, key).has(ids)).to(seeds.device)
        return replace(self, train=Batch(self.train.graph, seeds[kept], targets[kept]))

    @cached_property
    def _train(self) -> Plan:
        return self.plan(self.train)

    @cached_property
    def _validation(self) -> Plan:
        return self.plan(self.validate)


@dataclass(frozen=True)
class PartValidation:
    """Validation on every union of `clusters` consecutive parts by itself."""

    graph: GraphFile
    clusters: int
    plan: MakePlan
    device: torch.device = field(default=CPU, kw_only=True)
    hop: FirstAggregationFile | None = field(default=None, kw_only=True)  # sums of features, if not made of a union

    def validation(self) -> Iterator[Plan]:
        """Nearly exact: edges between unions are left out."""
        return self._unions(np.arange(self.graph.parts), self.graph.validation_counts, Role.VALIDATION)

    def _unions(
        self, order: IntArray, counts: IntArray, role: Role | FindSeeds, edit: Edit | None = None
    ) -> Iterator[Plan]:
        """Unions of parts in that order. counts: how many seeds each part has; a union needs one."""
        drawn = (order[first : first + self.clusters] for first in range(0, len(order), self.clusters))
        steps = count()

        def ready(batch: Batch) -> Plan:
            return self.plan(batch if edit is None else edit(batch, next(steps)))

        used = (chosen.tolist() for chosen in drawn if counts[chosen].any())
        return loader.stream_unions(self.graph, used, role, ready, hop=self.hop, device=self.device)


@dataclass(frozen=True)
class MiniBatches(PartValidation):
    """What mini-batches have in common: whose nodes are trained on, and which of them."""

    role: Roles = field(default=Role.TRAIN, kw_only=True)
    bag: Bag | None = field(default=None, kw_only=True)  # None: all

    def draw_bag(self, share: float, key: int) -> Self:
        """As in `Batches`."""
        spans = list(pairwise(self.graph.ptr.tolist()))
        places = (loader.find_nodes(self.graph, *span, self.role) for span in spans)
        ids = [self.graph.original_ids(*span)[mine] for span, mine in zip(spans, places, strict=True)]
        return replace(self, bag=Bag.draw(np.concatenate(ids), share, key))

    def find_nodes(self, start: int, stop: int) -> IntArray:
        """Of nodes start to stop those that are trained on, by their places after start, (n,)."""
        return loader.find_nodes(self.graph, start, stop, self.role, self.bag)


@dataclass(frozen=True)
class ClusterBatches(MiniBatches):
    """Cluster-GCN: an epoch goes once over all parts, `clusters` random ones a step, read from graph.h5.

    Edges between the parts of a step are kept, degrees are counted inside it; with `hop`, the first layer has the whole
    graph's. Source: arXiv 1905.07953, section 3.2.
    """

    @cached_property
    def _train_counts(self) -> IntArray:
        return np.array([len(self.find_nodes(*span)) for span in pairwise(self.graph.ptr.tolist())])

    def epoch(self, generator: np.random.Generator, edit: Edit | None = None) -> Iterator[Plan]:
        """Unions that have a training node, in random order."""
        return self._unions(generator.permutation(self.graph.parts), self._train_counts, self._find_seeds, edit)

    def _find_seeds(self, graph: GraphFile, runs: Sequence[Span]) -> tuple[Tensor, Tensor]:
        return loader.find_seeds(graph, runs, self.role, self.bag)


@dataclass(frozen=True)
class HostGraph:
    """The whole graph in host memory, read when it is first asked for."""

    graph: GraphFile

    @cached_property
    def features(self) -> Any:
        """(V, F), dense or sparse."""
        return self.graph.sparse_x([(0, self.graph.nodes)]) if self.graph.sparse else self.graph.x(0, self.graph.nodes)

    @cached_property
    def labels(self) -> Tensor:
        """(V,), or (V, T)."""
        return torch.from_numpy(self.graph.y(0, self.graph.nodes))

    @cached_property
    def structure(self) -> tuple[IntArray, IndexArray]:
        """Where rows begin, (V + 1,), and in-neighbours, (E,)."""
        indptr = self.graph.bounds(0, self.graph.nodes)
        return indptr, self.graph.neighbours(indptr)

    @cached_property
    def values(self) -> tuple[FloatArray | None, FloatArray | None]:
        """Weights (E,) and features (E, D) of entries, as far as there are any."""
        graph, (indptr, indices) = self.graph, self.structure
        weights = graph.weights(indptr) if graph.weighted else None
        return weights, graph.edge_attr(0, len(indices)) if graph.edge_features else None

    @cached_property
    def lookup(self) -> sampling.EntryLookup | None:
        """Finds entries that have values."""
        return sampling.EntryLookup(self.structure) if self.graph.weighted or self.graph.edge_features else None


@dataclass(frozen=True)
class NeighbourBatches(MiniBatches):
    """GraphSAGE's mini-batches: `size` training nodes a step and the sampled neighbourhood that they need.

    Features and structure are in host memory; a sample's degrees are counted inside it. Source: arXiv 1706.02216,
    algorithm 2.
    """

    size: int
    fanout: tuple[int, ...]
    layers: int
    sampler: sampling.Kind
    whole: HostGraph

    @cached_property
    def _training(self) -> IntArray:
        return self.find_nodes(0, self.graph.nodes)

    def epoch(self, generator: np.random.Generator, edit: Edit | None = None) -> Iterator[Plan]:
        """Batches of training nodes in random order, each with its sample."""
        whole = self.whole
        for step, (sample, features) in enumerate(self._draw(generator)):
            places = None if whole.lookup is None else whole.lookup.find(sample)
            values = (None if each is None else each[places] for each in whole.values)
            adjacency = loader.make_adjacency(sample.indptr, sample.indices, *values)
            graph = Subgraph(features, adjacency)
            batch = Batch(graph, torch.arange(sample.seeds), whole.labels[sample.nodes[: sample.seeds]])
            yield self.plan(batch if edit is None else edit(batch, step))

    def _draw(self, generator: np.random.Generator) -> Iterator[Drawn]:
        """Samples, with their nodes' features."""
        x, structure = self.whole.features, self.whole.structure
        how = self._training, self.size, self.fanout, self.layers, generator
        if self.sampler == "compiled":
            yield from draw_compiled_samples(structure, x, *how)
            return
        draw = sampling.draw_pyg_samples if self.sampler == "pyg" else sampling.draw_samples
        for sample in draw(structure, *how):
            mine = x[sample.nodes]
            yield sample, torch.from_numpy(mine) if isinstance(mine, np.ndarray) else mine
