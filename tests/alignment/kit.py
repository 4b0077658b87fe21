"""Architectures, states whose every entry matters, and permutations of them drawn at random."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gnnsoup_hpc.alignment.symmetry import unit_layouts
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Permutation, State
from tests.arbitrary import Structure, normal, random_batch, random_structure

FEATURES, HIDDEN, CLASSES = 7, 12, 3
KINDS = [("gcn", 1), ("sage", 1), ("gat", 1), ("gat", 3)]
ARCHITECTURES = [
    Architecture(kind, layers, FEATURES, HIDDEN, CLASSES, heads, norm)
    for (kind, heads), layers, norm in itertools.product(KINDS, [1, 2, 3, 4], ["none", "layer"])
]
GRAPH = random_structure(60, 240)


def label(net: Architecture) -> str:
    return f"{net.kind}-{net.heads}heads-{net.layers}layers-{net.norm}"


every_architecture = pytest.mark.parametrize("net", ARCHITECTURES, ids=label)


def state_of(net: Architecture, seed: int = 0) -> State:
    """A state whose biases and norms are not at their start."""
    start = net.init_state(seed)
    return {
        name: tensor + 0.1 * normal(1000 * seed + number, *tensor.shape, kind=torch.float32)
        for number, (name, tensor) in enumerate(start.items())
    }


def shuffle(net: Architecture, seed: int) -> Permutation:
    """A random permutation that the architecture allows: of groups, and within each."""
    rng = np.random.default_rng(seed)
    return {
        name: np.concatenate(
            [group * layout.size + rng.permutation(layout.size) for group in rng.permutation(layout.groups)]
        )
        for name, layout in unit_layouts(net).items()
    }


def subgraph(shape: Structure = GRAPH, seed: int = 0) -> Subgraph:
    return Subgraph(normal(seed, shape.nodes, FEATURES, kind=torch.float32), shape.adjacency())


def batches(count: int = 3) -> list[Batch]:
    """Some batches whose seeds are every second node."""
    seeds = list(range(0, 60, 2))
    return [random_batch(random_structure(60, 240, seed), seeds, FEATURES, CLASSES, seed) for seed in range(count)]


def same(one: State, other: State) -> bool:
    """Whether two states are equal bit for bit, in names and order too."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)
