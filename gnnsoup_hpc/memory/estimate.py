"""How many bytes each phase will hold, from sizes alone, before any of it begins. docs/scaling.md explains the terms.

V nodes, E entries (directed), F features, H hidden channels, C classes, L layers, N ingredients, P parameters, K parts,
R parts of a union. All figures are of host memory, above what the libraries take.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from math import prod

import numpy as np
import torch

from gnnsoup_hpc.engine import Engine, TorchEngine, choose_engine
from gnnsoup_hpc.engine.compiled.engine import PLAN_NODE, WEIGHTED_NODE
from gnnsoup_hpc.engine.memory import FLOAT, SPARSE_VALUE, Extent, hold_features, total
from gnnsoup_hpc.engine.out_of_core.module_layers import find_layers
from gnnsoup_hpc.engine.out_of_core.neighbourhoods import find_largest
from gnnsoup_hpc.engine.torch import COPIES, STRUCTURE_ENTRY
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.base import LayeredModel, Model
from gnnsoup_hpc.types import TRAINED_ROLES, IntArray, Labels
from gnnsoup_hpc.utils.out_of_core import index_type

DOUBLE = 8
MIB = 1 << 20
CPU = torch.device("cpu")
BASE = 24 * MIB  # blocks of rows that threads work at, buffers of reading, alphas and their history
READ_NODE = 24  # bytes a node of a subgraph that is read: where rows start, in the file and here, roles, labels
STORE_ENTRY = 16  # bytes an entry while the whole structure is read to be sampled: int32 as read, int64, int32 kept
TRAINED_STATES = 6  # copies of a layer's states that autograd keeps where each step has the same subgraph
CHANGING_STATES = COPIES["train"]  # where each has another
EVALUATED_TARGET = 24  # bytes a node and target beside that: targets as read, scores, and their order
EVALUATED_NODE = 64  # bytes a node of the whole graph while accuracies are told: roles, labels, places, predictions
LEAST_WORK = 96 * MIB  # of inference layer by layer: a piece of the structure, two slabs, a block worth the reading
MOST_PARTS = 8  # that are ever chosen for a union
HALF = 2  # bytes of a number of the teacher's outputs as it is read
COPIES_OF_TARGETS = 6  # as read, with labels, of the next union too; logits, their divergence and its gradient


@dataclass(frozen=True)
class LeftOut:
    """What each step of training leaves out at random."""

    edges: bool = False
    features: bool = False


NOTHING = LeftOut()


@dataclass(frozen=True)
class Sizes:
    """What is known beforehand. Shapes: part_nodes, part_entries, part_seeds (K,)."""

    net: Model
    part_nodes: IntArray
    part_entries: IntArray
    part_seeds: IntArray
    cut: float  # share of the entries that lead to another part
    device: torch.device = CPU
    part_training: IntArray | None = None  # nodes that are trained on; None: as many as seeds
    targets: int = 0  # of a node that has no class
    part_values: IntArray | None = None  # of sparse features, those that are not zero
    # The largest neighbourhood of a node, while the graph is open; of models that are computed by neighbourhoods.
    find_largest: Callable[[], Extent] | None = None

    @classmethod
    def of(cls, graph: GraphFile, net: Model, device: torch.device = CPU, labels: Labels = "training") -> Sizes:
        """The sizes of a graph and a model, trained on these labels; reads K numbers, and the nodes' roles."""
        bounds = np.array([int(graph.bounds(node, node)[0]) for node in graph.ptr.tolist()])
        cut = 2 * int(graph.cut["edge_cut"]) / max(1, graph.edges)
        roles = TRAINED_ROLES[labels]
        training = np.array([np.isin(graph.role(*ends), roles).sum() for ends in pairwise(graph.ptr.tolist())])
        seeds = graph.validation_counts
        targets = 0 if graph.targets == "classes" else graph.classes
        find = None
        if find_layers(net) is None and net.hops is not None:
            find = cache(partial(find_largest, graph, net.hops))
        values = np.diff(graph.count_values(graph.ptr)) if graph.sparse else None
        counts = np.diff(graph.ptr), np.diff(bounds), seeds
        return cls(net, *counts, min(1.0, cut), device, training, targets, values, find)

    @property
    def of_training(self) -> Sizes:
        """The same with training nodes for seeds."""
        return self if self.part_training is None else replace(self, part_seeds=self.part_training)

    @property
    def evaluated_node(self) -> int:
        """Bytes a node of the whole graph while metrics are told."""
        return EVALUATED_NODE + EVALUATED_TARGET * self.targets

    @property
    def on_device(self) -> bool:
        """Whether the host only reads subgraphs, and a GPU computes on them."""
        return self.device.type != "cpu"

    @property
    def engine(self) -> Engine:
        """What computes the model there."""
        return choose_engine(self.net, self.device)

    @property
    def parts(self) -> int:
        """K."""
        return len(self.part_nodes)

    @property
    def whole(self) -> Extent:
        """The whole graph."""
        entries = int(self.part_entries.sum())
        found = Extent(int(self.part_nodes.sum()), entries, entries, int(self.part_seeds.sum()))
        return self._add_values(found, self.parts)

    def _add_values(self, extent: Extent, parts: int) -> Extent:
        """With the values of its sparse features, of so many parts at most."""
        if self.part_values is None:
            return extent
        values = int(np.sort(self.part_values)[-parts:].sum())
        return replace(extent, values=values, dense=not self.engine.keeps_sparse)

    def shard(self, ranks: int) -> Extent:
        """What one of so many ranks holds of the whole graph: its own nodes and others' that are neighbours of them.

        Each cut entry of own nodes is taken to lead to another's node drawn evenly; real ones meet more often.
        """
        whole = self.whole
        own, others = whole.nodes / ranks, whole.nodes * (1 - 1 / ranks)
        leading_out = self.cut * (1 - 1 / ranks) / max(0.5, 1 - 1 / self.parts) * whole.entries / ranks
        share = (own + others * -math.expm1(-leading_out / max(1.0, others))) / max(1, whole.nodes)
        entries = min(whole.entries, round((whole.entries + 2 * leading_out * ranks) / ranks))
        crossing = round(2 * leading_out)
        mine = Extent(round(share * whole.nodes), whole.read, entries, round(share * whole.seeds), crossing)
        return replace(mine, values=whole.values, dense=whole.dense)  # every rank reads all sparse features

    def union(self, size: int) -> Extent:
        """The largest that a union of `size` parts can be, each of its figures by itself."""
        size, counts = min(size, self.parts), (self.part_nodes, self.part_entries, self.part_seeds)
        nodes, read, seeds = (int(np.sort(each)[-size:].sum()) for each in counts)
        inside = 1 - self.cut * (1 - (size - 1) / max(1, self.parts - 1))
        return self._add_values(Extent(nodes, read, round(read * inside), seeds), size)


def parameters(net: Model) -> int:
    """P."""
    return sum(prod(shape) for shape in net.shapes().values())


def mixing(net: Model, ingredients: int) -> int:
    """N ingredients, and what mixing holds beside them: a mixture, its gradient, products in float64."""
    return parameters(net) * (FLOAT * (ingredients + 4) + 2 * DOUBLE)


def reading(net: Model, extent: Extent) -> int:
    """A subgraph as it is read: features, and the entries of its rows, of which those inside it are kept in place."""
    entry = _id_bytes(extent) + FLOAT * (net.weighted + net.edge_features)
    return hold_features(net.features, extent) + entry * extent.read + READ_NODE * extent.nodes


def _make_dense(extent: Extent, engine: Engine | None = None) -> Extent:
    """With all zeros of its features, unless the engine keeps sparse ones."""
    return replace(extent, dense=extent.dense or engine is None or not engine.keeps_sparse)


def _id_bytes(extent: Extent) -> int:
    return int(np.dtype(index_type(extent.read)).itemsize)


def _lookup(net: Model, extent: Extent) -> int:
    """Bytes an entry of what finds the values of a sample's entries."""
    return _id_bytes(extent) * (net.weighted or net.edge_features > 0)


def _share(sizes: Sizes, ranks: int) -> tuple[Extent, int]:
    """What a rank computes on of the whole graph, and what reading it takes: the whole structure is looked at."""
    net, whole = sizes.net, sizes.whole
    if ranks == 1 or not sizes.engine.divides:
        return whole, reading(net, whole)
    mine = sizes.shard(ranks)
    entry = _id_bytes(whole) + FLOAT * net.weighted
    structure = entry * (whole.read + mine.entries) + (READ_NODE + PLAN_NODE) * whole.nodes
    if net.weighted:  # whose values are made of the whole structure
        structure += entry * (whole.read + whole.nodes) + WEIGHTED_NODE * whole.nodes
    return mine, hold_features(net.features, mine) + structure


def ls(sizes: Sizes, ingredients: int, ranks: int = 1) -> int:
    """LS: the whole graph is read and planned, then every step keeps its states; of several ranks, each its shard."""
    net, (mine, reads) = sizes.net, _share(sizes, ranks)
    held = mixing(net, ingredients)
    if sizes.on_device:
        return held + reads
    gathered = 8 * FLOAT * net.outputs * sizes.whole.seeds if ranks > 1 else 0  # every rank has all logits
    needed = sizes.engine.memory(net, mine, mode="fit")
    return BASE + gathered + held + total(needed.plan) + max(reads, total(needed.states))


def pls(sizes: Sizes, ingredients: int, union: int, exact: bool = False) -> int:
    """PLS with unions of R parts: the next is read while one is worked at, and all room is kept for the one after.

    exact: the whole graph's first hop is read beside the features.
    """
    net, extent = sizes.net, sizes.union(union)
    extent = _make_dense(extent) if exact else extent
    held = mixing(net, ingredients) + reading(net, extent) + exact * FLOAT * net.features * extent.nodes
    if sizes.on_device:
        return held + reading(net, extent)
    return BASE + held + sizes.engine.memory(net, extent, mode="fit").total


def moments(net: Model) -> int:
    """Sums over products of the hidden states of two models, in float64."""
    if not isinstance(net, LayeredModel):
        return 0
    widths = [net.widths(layer)[1] for layer in range(net.layers - 1)] or [net.outputs]
    return DOUBLE * sum(width**2 for width in widths)


def activations(sizes: Sizes, ingredients: int, union: int) -> int:
    """Hidden states of ingredients on unions of R parts, one layer's at a time, and sums over them in float64."""
    net, extent = sizes.net, _make_dense(sizes.union(union))
    held = mixing(net, ingredients) + 8 * moments(net)
    if sizes.on_device:
        return held + reading(net, extent)
    needed = TorchEngine().memory(net, extent, mode="evaluate")
    return held + _torch(net, extent, needed.plan["features"], needed.plan["structure"] + total(needed.states))


def inference(sizes: Sizes, line: bool = False, ranks: int = 1) -> int:
    """Accuracies in memory, of all nodes, for that is what validation and test together come to.

    On a line between two models, as GIS tells them, what the first weights of both make of the first hop is held too.
    Of several ranks, each its shard.
    """
    mine, reads = _share(sizes, ranks)
    labels = BASE + sizes.evaluated_node * sizes.whole.nodes
    if sizes.on_device:
        return reads + labels
    needed = sizes.engine.memory(sizes.net, replace(mine, seeds=mine.nodes), mode="evaluate", line=line)
    return labels + total(needed.plan) + max(reads, total(needed.states))


def least_inference(sizes: Sizes) -> tuple[str, int]:
    """The way of telling accuracies that needs the least, and what that is.

    Of models whose layers cannot be told apart by neighbourhoods, beside the structure; or else in memory.
    """
    least = sizes.evaluated_node * sizes.whole.nodes + LEAST_WORK
    if find_layers(sizes.net) is not None:
        return "accuracies layer by layer", least
    if why := sizes.net.find_far_reach():
        return f"accuracies in memory, since {why},", inference(sizes)
    entry = _id_bytes(sizes.whole) + FLOAT + FLOAT * sizes.net.weighted + _lookup(sizes.net, sizes.whole)
    structure = entry * sizes.whole.read + READ_NODE * sizes.whole.nodes
    nodes = sizes.find_largest() if sizes.find_largest else sizes.whole
    block = sizes.engine.memory(sizes.net, nodes, mode="evaluate").total
    return "accuracies by neighbourhoods", min(inference(sizes), least + structure + block)


def training(sizes: Sizes, engine: Engine, extent: Extent, left_out: LeftOut = NOTHING, changing: bool = True) -> int:
    """A step of training on a subgraph that is in memory.

    changing: whether each step has another subgraph, whose sizes leave gaps. With edge dropping, what is left of it has
    a structure and a first hop of its own, and each entry three numbers; with feature dropping it has features of its
    own too.
    """
    net, extent = sizes.net, _make_dense(extent, engine)
    if sizes.on_device:
        return reading(net, extent)
    needed, dropping = engine.memory(net, extent, mode="train"), 0
    if left_out.edges:
        dropping = (STRUCTURE_ENTRY + FLOAT * (net.weighted + net.edge_features) + 3 * DOUBLE) * extent.entries
    if left_out.features:
        dropping += hold_features(net.features, extent)
    if not isinstance(engine, TorchEngine):
        return BASE + reading(net, extent) + dropping + needed.total + 6 * FLOAT * parameters(net)
    features, structure, states = needed.plan["features"], needed.plan["structure"], needed.states["states"]
    if not changing:
        states = states * TRAINED_STATES // CHANGING_STATES
    if left_out.edges or left_out.features:
        features += features - FLOAT * net.features * extent.nodes
    return _torch(net, extent, features, structure + dropping + states + needed.states["entries"])


def _torch(net: Model, extent: Extent, features: int, work: int) -> int:
    """The torch engine's features, entries or later work, and copies of the parameters, Adam's among them."""
    return features + max(_id_bytes(extent) * extent.read, work) + 6 * FLOAT * parameters(net)


def full_batches(sizes: Sizes, engine: Engine, left_out: LeftOut = NOTHING) -> int:
    """Training on full batches: what is trained on stays while accuracies are told."""
    kept = 0 if isinstance(engine, TorchEngine) else total(engine.memory(sizes.net, sizes.whole, mode="evaluate").plan)
    work = training(sizes, engine, sizes.of_training.whole, left_out, changing=False)
    return work + kept + sizes.evaluated_node * sizes.whole.nodes


def cluster_batches(
    sizes: Sizes, engine: Engine, clusters: int, left_out: LeftOut = NOTHING, exact: bool = False
) -> int:
    """Training on cluster batches of so many parts, of which the next is read while one is trained on.

    exact: the whole graph's first hop is read beside the features.
    """
    extent = sizes.of_training.union(clusters)
    extent = _make_dense(extent) if exact else extent
    reads = reading(sizes.net, extent) + exact * FLOAT * sizes.net.features * extent.nodes
    return training(sizes, engine, extent, left_out) + reads


def distil(sizes: Sizes, ingredients: int, union: int) -> int:
    """A step of distil on unions of R parts, of which all nodes are seeds, with the teacher's outputs of them."""
    extent = sizes.union(union)
    extent = replace(extent, seeds=extent.nodes)
    targets = extent.nodes * (sizes.net.outputs + max(1, sizes.targets))
    taught = (COPIES_OF_TARGETS * FLOAT + HALF) * targets
    return mixing(sizes.net, ingredients) + training(sizes, sizes.engine, extent) + reading(sizes.net, extent) + taught


def neighbour_store(sizes: Sizes) -> int:
    """What neighbour batches are drawn from: features and structure of the whole graph."""
    net, whole = sizes.net, sizes.whole
    entry = STORE_ENTRY + FLOAT * (net.weighted + net.edge_features) + _lookup(net, whole)
    features = hold_features(net.features, whole) if sizes.part_values is None else SPARSE_VALUE * whole.values
    return features + entry * whole.read + PLAN_NODE * whole.nodes


def neighbour_batches(
    sizes: Sizes, engine: Engine, batch_size: int, fanouts: tuple[int, ...], left_out: LeftOut = NOTHING
) -> int:
    """Training on neighbour batches: that, a sample, and the next one as it is drawn."""
    extent = sample(sizes, batch_size, fanouts)
    ahead = hold_features(sizes.net.features, extent) + 2 * DOUBLE * (extent.entries + extent.nodes)
    return neighbour_store(sizes) + ahead + training(sizes, engine, extent, left_out)


def sample(sizes: Sizes, batch_size: int, fanouts: tuple[int, ...]) -> Extent:
    """The neighbourhood of a batch of nodes at most; fanouts: one a hop, -1 = all."""
    whole, nodes, new, entries = sizes.whole, batch_size, batch_size, 0
    degree = -(-whole.entries // max(1, whole.nodes))
    for fanout in fanouts:
        drawn = new * (degree if fanout < 0 else min(fanout, degree))
        entries += drawn
        new = min(drawn, whole.nodes)
        nodes = min(whole.nodes, nodes + new)
    entries = min(entries, whole.entries)
    values = -(-whole.values * nodes // max(1, whole.nodes))
    return Extent(nodes, entries, entries, batch_size, values=values, dense=whole.dense)
