"""How many bytes each phase will hold, from sizes alone, before any of it begins. docs/scaling.md explains the terms.

V nodes, E entries (directed), F features, H hidden channels, C classes, L layers, N ingredients, P parameters, K parts,
R parts of a union. All figures are of host memory, above what the libraries take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from gnnsoup_hpc.engine.compiled.threads import LANES
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import IntArray
from gnnsoup_hpc.utils.out_of_core import index_type

FLOAT = 4
DOUBLE = 8
MIB = 1 << 20
BASE = 24 * MIB  # blocks of rows that threads work at, buffers of reading, alphas and their history
READ_NODE = 24  # bytes a node of a subgraph that is read: where rows start, in the file and here, roles, labels
PLAN_NODE = 28  # bytes a node of a plan: its order, its place there, its scale, where its entries start, both ways
STORE_ENTRY = 16  # bytes an entry while the whole structure is read to be sampled: int32 as read, int64, int32 kept
TRAINED_ENTRY = 28  # of training's structure: CSR, its transpose, both with values, and the permutation between them
TRAINED_STATES = 6  # copies of a layer's states that autograd keeps while training, gradients included
ALIGNED_STATES = 3  # the same where nothing is kept: what goes into a layer, its sums, what comes out
CHANGING_STATES = 8  # the same where each step has another subgraph, whose sizes leave gaps
EVALUATED_NODE = 64  # bytes a node of the whole graph while accuracies are told: roles, labels, places, predictions
LEAST_WORK = 96 * MIB  # of inference layer by layer: a piece of the structure, two slabs, a block worth the reading
MOST_PARTS = 8  # that are ever chosen for a union

Terms = Mapping[str, int]  # bytes by what they are for


@dataclass(frozen=True)
class Extent:
    """A graph, the union of some of its parts, or a rank's share, in numbers.

    read: entries of its rows; entries: those inside it; crossing: between own nodes and others', both ways.
    """

    nodes: int
    read: int
    entries: int
    asked: int  # nodes that a loss is taken on
    crossing: int = 0


@dataclass(frozen=True)
class Sizes:
    """What is known beforehand. Shapes: part_nodes, part_entries, part_asked (K,)."""

    net: Architecture
    part_nodes: IntArray
    part_entries: IntArray
    part_asked: IntArray
    cut: float  # share of the entries that lead to another part
    on_device: bool = False  # whether the host only reads subgraphs, and a GPU computes on them

    @classmethod
    def of(cls, graph: GraphFile, net: Architecture, on_device: bool = False) -> Sizes:
        """The sizes of a graph and a model; reads K numbers."""
        bounds = np.array([int(graph.bounds(node, node)[0]) for node in graph.ptr.tolist()])
        cut = 2 * int(graph.cut["edge_cut"]) / max(1, graph.edges)
        return cls(net, np.diff(graph.ptr), np.diff(bounds), graph.validation_counts, min(1.0, cut), on_device)

    @property
    def parts(self) -> int:
        """K."""
        return len(self.part_nodes)

    @property
    def whole(self) -> Extent:
        """The whole graph."""
        entries = int(self.part_entries.sum())
        return Extent(int(self.part_nodes.sum()), entries, entries, int(self.part_asked.sum()))

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
        return Extent(round(share * whole.nodes), whole.read, entries, round(share * whole.asked), crossing)

    def union(self, size: int) -> Extent:
        """The largest that a union of `size` parts can be, each of its figures by itself."""
        read = _largest(self.part_entries, size)
        size = min(size, self.parts)
        inside = 1 - self.cut * (1 - (size - 1) / max(1, self.parts - 1))
        return Extent(_largest(self.part_nodes, size), read, round(read * inside), _largest(self.part_asked, size))


def _largest(counts: IntArray, size: int) -> int:
    return int(np.sort(counts)[len(counts) - min(size, len(counts)) :].sum())


def parameters(net: Architecture) -> int:
    """P."""
    return sum(prod(shape) for shape in net.shapes().values())


def shelf(net: Architecture, ingredients: int) -> Terms:
    """N ingredients, and what mixing holds beside them: a mixture, its gradient, products in float64."""
    return {"ingredients": parameters(net) * (FLOAT * (ingredients + 4) + 2 * DOUBLE)}


def reached(extent: Extent, hops: int) -> list[int]:
    """Nodes within 0, 1, ... hops of the asked ones, if these lie anywhere.

    A hop misses a node with probability (1 - f)^d, f the share that the hop before has newly reached and d the mean
    degree; nodes of unlike degrees are missed more often (Jensen), so on average this is not too low.
    """
    nodes, degree = max(1, extent.nodes), extent.entries / max(1, extent.nodes)
    counts, new = [extent.asked], extent.asked
    for _ in range(hops):
        missed = (extent.nodes - counts[-1]) * (1 - min(1.0, new / nodes)) ** degree
        new = extent.nodes - round(missed) - counts[-1]
        counts.append(counts[-1] + new)
    return counts


def reading(net: Architecture, extent: Extent) -> Terms:
    """A subgraph as it is read: features, and the entries of its rows, of which those inside it are kept in place."""
    ids = np.dtype(index_type(extent.read)).itemsize
    return {"features": FLOAT * net.features * extent.nodes, "read": ids * extent.read + READ_NODE * extent.nodes}


def plan(net: Architecture, extent: Extent, keep: bool) -> Terms:
    """What is made of it: the first hop (of GAT the features), and the structure with its transpose.

    GCN and GraphSAGE need only the entries of rows after the first layer; GAT's transpose, with the places of its
    entries, is there only to `keep` what a backward pass needs, as are each layer's entries that cross to other ranks.
    """
    rows = reached(extent, net.layers - 1)[::-1]
    width = net.features * (2 if net.kind == "sage" else 1)
    ids = np.dtype(index_type(extent.read)).itemsize
    if net.kind == "gat":
        entries = (extent.entries + extent.nodes) * (3 if keep else 1) + net.layers * extent.crossing * keep
    else:
        later = rows[1] / max(1, extent.nodes) if net.layers > 1 else 0
        entries = 2 * round(later * (extent.entries + (extent.nodes if net.kind == "gcn" else 0)))
    return {"first hop": FLOAT * width * rows[0], "structure": ids * entries + PLAN_NODE * extent.nodes}


def states(net: Architecture, extent: Extent, keep: bool) -> Terms:
    """Hidden states: all that the backward pass needs, or two layers of them."""
    rows = reached(extent, net.layers - 1)[::-1]
    made = [FLOAT * net.widths(layer)[1] * rows[layer] for layer in range(net.layers)]
    aggregated = sum(FLOAT * net.widths(layer)[0] * rows[layer] for layer in range(1, net.layers))
    scores = made[-1] * (4 if keep else 2)
    if net.kind == "gat":
        shares = [rows[layer] / max(1, extent.nodes) for layer in range(net.layers)]
        weights = [FLOAT * net.heads * round(share * (extent.entries + extent.nodes)) for share in shares]
        scores += 4 * FLOAT * net.heads * extent.nodes + (sum(weights) + max(weights) if keep else 0)
        scores += FLOAT * net.heads * extent.crossing  # as they are sent, or scores of border nodes
        aggregated = 0
    if not keep:
        return {"states": max(a + b for a, b in zip(made, [*made[1:], 0], strict=True)) + scores}
    normed = sum(made[:-1]) if net.norm == "layer" else 0
    widest = max(net.widths(layer)[0] * net.widths(layer)[1] for layer in range(net.layers))
    lanes = LANES * FLOAT * widest * (2 if net.kind == "sage" else 1)
    return {"states": sum(made) + aggregated + normed + scores, "gradients": lanes}


def total(*terms: Terms) -> int:
    """Bytes of all terms together."""
    return sum(sum(each.values()) for each in terms)


def splits(on_device: bool) -> bool:
    """Whether ranks can share the nodes of a subgraph that is computed on."""
    return not on_device


def _shared(sizes: Sizes, ranks: int) -> tuple[Extent, Terms]:
    """What a rank computes on of the whole graph, and what reading it takes: the whole structure is looked at."""
    if ranks == 1 or not splits(sizes.on_device):
        return sizes.whole, reading(sizes.net, sizes.whole)
    mine, whole = sizes.shard(ranks), sizes.whole
    ids = np.dtype(index_type(whole.read)).itemsize
    read = ids * (whole.read + mine.entries) + (READ_NODE + PLAN_NODE) * whole.nodes
    return mine, {"features": FLOAT * sizes.net.features * mine.nodes, "read": read}


def learned(sizes: Sizes, ingredients: int, ranks: int = 1) -> int:
    """LS: the whole graph is read and planned, then every step keeps its states; of several ranks, each its shard."""
    net, (mine, read) = sizes.net, _shared(sizes, ranks)
    held, reads = total(shelf(net, ingredients)), total(read)
    if sizes.on_device:
        return held + reads
    told = 8 * FLOAT * net.classes * sizes.whole.asked if ranks > 1 else 0  # rank 0 has all class scores
    return BASE + told + held + total(plan(net, mine, keep=True)) + max(reads, total(states(net, mine, keep=True)))


def partition_learned(sizes: Sizes, ingredients: int, union: int, exact: bool = False) -> int:
    """PLS with unions of R parts: the next is read while one is worked at, and all room is kept for the one after.

    exact: the whole graph's first hop is read beside the features.
    """
    net, extent = sizes.net, sizes.union(union)
    held = total(shelf(net, ingredients), reading(net, extent)) + exact * FLOAT * net.features * extent.nodes
    if sizes.on_device:
        return held + total(reading(net, extent))
    return BASE + held + total(plan(net, extent, keep=True), states(net, extent, keep=True))


def activations(sizes: Sizes, ingredients: int, union: int) -> int:
    """Hidden states of ingredients on unions of R parts, one layer's at a time, and sums over them in float64."""
    net = sizes.net
    hops = 8 * DOUBLE * net.hidden**2 * max(1, net.layers - 1)
    held = total(shelf(net, ingredients)) + hops
    return held + trained(sizes, sizes.union(union), copies=ALIGNED_STATES)


def inference(sizes: Sizes, line: bool = False, ranks: int = 1) -> int:
    """Accuracies in memory, of all nodes, for that is what validation and test together come to.

    On a line between two models, as GIS tells them, what the first weights of both make of the first hop is held too.
    Of several ranks, each its shard.
    """
    net, (mine, read) = sizes.net, _shared(sizes, ranks)
    everyone = replace(mine, asked=mine.nodes)
    reads, told = total(read), BASE + EVALUATED_NODE * sizes.whole.nodes
    if sizes.on_device:
        return reads + told
    ends = 2 * FLOAT * net.widths(0)[1] * mine.nodes if line and net.kind != "gat" else 0
    return told + total(plan(net, everyone, keep=False)) + max(reads, ends + total(states(net, everyone, keep=False)))


def layer_by_layer(sizes: Sizes) -> int:
    """The least that accuracies layer by layer can do with."""
    return EVALUATED_NODE * sizes.whole.nodes + LEAST_WORK


def trained(sizes: Sizes, extent: Extent, copies: int = CHANGING_STATES, drop_edges: bool = False) -> int:
    """A step of training through autograd on a subgraph, all of whose nodes are computed.

    With edge dropping, what is left of it has a structure and a first hop of its own, and each entry three numbers.
    """
    net = sizes.net
    if sizes.on_device:
        return total(reading(net, extent))
    structure = TRAINED_ENTRY * extent.entries + PLAN_NODE * extent.nodes
    features = FLOAT * net.features * extent.nodes * (1 if net.kind == "gat" else 2)
    per_layer = sum(net.widths(layer)[1] for layer in range(net.layers))
    kept = FLOAT * extent.nodes * per_layer * copies
    attention = 15 * FLOAT * net.heads * extent.entries * net.layers if net.kind == "gat" else 0
    optimiser = 6 * FLOAT * parameters(net)
    ids = int(np.dtype(index_type(extent.read)).itemsize)
    if drop_edges:
        structure += (TRAINED_ENTRY + 3 * DOUBLE) * extent.entries
        features += FLOAT * net.features * extent.nodes * (net.kind != "gat")
    return features + max(ids * extent.read, structure + kept + attention) + optimiser


def trained_full(sizes: Sizes, drop_edges: bool = False) -> int:
    """Full batches: what is trained on stays while accuracies are told."""
    return trained(sizes, sizes.whole, TRAINED_STATES, drop_edges) + EVALUATED_NODE * sizes.whole.nodes


def trained_clusters(sizes: Sizes, clusters: int, drop_edges: bool = False) -> int:
    """Cluster batches of so many parts."""
    return trained(sizes, sizes.union(clusters), drop_edges=drop_edges)


def neighbour_store(sizes: Sizes) -> int:
    """What neighbour batches are drawn from: features and structure of the whole graph."""
    whole = sizes.whole
    return FLOAT * sizes.net.features * whole.nodes + STORE_ENTRY * whole.read + PLAN_NODE * whole.nodes


def trained_neighbour(sizes: Sizes, batch_size: int, fanouts: tuple[int, ...], drop_edges: bool = False) -> int:
    """Neighbour batches: that, and a sample; fanouts: one a hop, -1 = all."""
    whole, nodes, new, entries = sizes.whole, batch_size, batch_size, 0
    degree = -(-whole.entries // max(1, whole.nodes))
    for fanout in fanouts:
        drawn = new * (degree if fanout < 0 else min(fanout, degree))
        entries += drawn
        new = min(drawn, whole.nodes)
        nodes = min(whole.nodes, nodes + new)
    sample = Extent(nodes, min(entries, whole.entries), min(entries, whole.entries), batch_size)
    return neighbour_store(sizes) + trained(sizes, sample, drop_edges=drop_edges)
