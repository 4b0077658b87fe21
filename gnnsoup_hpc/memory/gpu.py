"""How many bytes of its GPU each phase will hold, from sizes alone, before any of it begins. docs/gpu.md has the terms.

Of models that only PyTorch computes nothing is known beforehand: theirs is 0.
"""

from __future__ import annotations

from dataclasses import replace

from gnnsoup_hpc.engine import Engine, TorchEngine
from gnnsoup_hpc.engine.memory import FLOAT, Extent, Memory, total
from gnnsoup_hpc.memory.estimate import DOUBLE, MIB, Sizes, mixing, parameters
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import Mode, Precision

WORKSPACE = 64 * MIB  # cuBLAS's own, and blocks that rows are divided into
CUT_WEIGHT = 36  # bytes of an entry that is read, while weights of a union are cut out: places, ids, what is kept
ADAM = 6  # copies of the parameters: moments, gradients, the best epoch


def is_known(sizes: Sizes, engine: Engine | None = None) -> bool:
    """Whether a GPU computes, by an engine whose allocations are counted."""
    return sizes.on_device and not isinstance(engine or sizes.engine, TorchEngine)


def _features(sizes: Sizes, extent: Extent) -> int:
    return FLOAT * sizes.net.features * extent.nodes


def mixed(net: Model, ingredients: int) -> int:
    """Ingredients, and the products of alpha and gradients with them: in float32, then in float64."""
    return mixing(net, ingredients) + DOUBLE * ingredients * parameters(net)


def ls(sizes: Sizes, ingredients: int, precision: Precision) -> int:
    """LS: the whole graph is planned, then its features go and every step keeps its states."""
    if not is_known(sizes):
        return 0
    needed = sizes.engine.memory(sizes.net, sizes.whole, mode="fit", precision=precision)
    most = max(_features(sizes, sizes.whole), total(needed.states))
    return WORKSPACE + mixed(sizes.net, ingredients) + total(needed.plan) + most


def pls(sizes: Sizes, ingredients: int, union: int, precision: Precision) -> int:
    """PLS with unions of R parts: the next is planned while one is worked at."""
    if not is_known(sizes):
        return 0
    extent = sizes.union(union)
    needed = sizes.engine.memory(sizes.net, extent, mode="fit", precision=precision)
    return WORKSPACE + mixed(sizes.net, ingredients) + _ahead(sizes, extent, needed)


def _ahead(sizes: Sizes, extent: Extent, needed: Memory) -> int:
    """A union's plan and states, and the next one's plan with what it is made of; weights are cut out before."""
    weights = CUT_WEIGHT * extent.read * sizes.net.weighted
    return needed.total + max(total(needed.plan), weights) + _features(sizes, extent)


def resident(sizes: Sizes) -> int:
    """The whole graph, to cut unions out of it: features, structure, roles and targets, and where each node is."""
    whole = sizes.whole
    entry = FLOAT * (2 if sizes.net.weighted else 1)
    return _features(sizes, whole) + FLOAT * whole.nodes + entry * whole.read + 2 * DOUBLE * whole.nodes


def inference(sizes: Sizes, precision: Precision = "float32", line: bool = False) -> int:
    """Metrics of all nodes, for that is what validation and test together come to."""
    if not is_known(sizes):
        return 0
    every = replace(sizes.whole, seeds=sizes.whole.nodes)
    needed = sizes.engine.memory(sizes.net, every, mode="evaluate", line=line, precision=precision)
    return WORKSPACE + total(needed.plan) + max(_features(sizes, every), total(needed.states))


def full_batches(sizes: Sizes, engine: Engine, precision: Precision = "float32") -> int:
    """Training on full batches: graph and plans of training, validation and all nodes stay."""
    if not is_known(sizes, engine):
        return 0
    of: list[tuple[Extent, Mode]] = [(sizes.of_training.whole, "train"), (sizes.whole, "evaluate")]
    of.append((replace(sizes.whole, seeds=sizes.whole.nodes), "evaluate"))
    needed = [engine.memory(sizes.net, extent, mode=mode, precision=precision) for extent, mode in of]
    plans = sum(total(each.plan) - each.plan["structure"] for each in needed) + needed[0].plan["structure"]
    states = max(total(each.states) for each in needed)
    return WORKSPACE + _trained(sizes) + _features(sizes, sizes.whole) + plans + states


def mini_batches(sizes: Sizes, engine: Engine, extent: Extent, precision: Precision = "float32") -> int:
    """Training on unions or samples, each planned when the one before is done with; or, between epochs, validation."""
    if not is_known(sizes, engine):
        return 0
    needed = engine.memory(sizes.net, extent, mode="train", precision=precision)
    return WORKSPACE + _trained(sizes) + _ahead(sizes, extent, needed)


def distil(sizes: Sizes, ingredients: int, union: int, precision: Precision = "float32") -> int:
    """A step of distil: as of training, with all nodes for seeds, and the ingredients beside it."""
    if not is_known(sizes):
        return 0
    extent = sizes.union(union)
    extent = replace(extent, seeds=extent.nodes)
    targets = 4 * FLOAT * extent.nodes * (sizes.net.outputs + max(1, sizes.targets))
    return mixed(sizes.net, ingredients) + mini_batches(sizes, sizes.engine, extent, precision) + targets


def _trained(sizes: Sizes) -> int:
    return ADAM * FLOAT * parameters(sizes.net)
