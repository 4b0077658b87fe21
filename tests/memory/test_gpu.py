"""What a GPU is predicted to hold, beside what is allocated, and what is chosen and refused by it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gnnsoup_hpc.config import Job, format_bytes
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.engine import TorchEngine
from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.errors import MemoryLimitError
from gnnsoup_hpc.memory import gpu, limits
from gnnsoup_hpc.memory.estimate import MIB, Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Mode, Precision
from tests.arbitrary import random_batch, random_structure, structure
from tests.memory.test_estimate import PRODUCTS

GIB = 1024 * MIB
NODES = 160  # interpreted kernels take a millisecond a row
ON_GPU = replace(PRODUCTS, device=torch.device("cuda"))


class Allocations(TorchDispatchMode):
    """Bytes of all tensors that are made inside, and the most at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return found

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.held += storage.nbytes()
            self.most = max(self.most, self.held)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.held -= self._sizes.pop(key)


@pytest.mark.parametrize("mode", ["fit", "evaluate"])
@pytest.mark.parametrize(("kind", "norm"), [("sage", "layer"), ("gcn", "none"), ("gat", "layer")])
def test_what_is_counted_is_what_is_allocated(kind: str, norm: str, mode: Mode) -> None:
    """Within the 15 % that it is held to; on a GPU `make gpu-check` compares the two. What is looked at counts too."""
    shape, net = random_structure(NODES, 5 * NODES // 2), Architecture(kind, 3, 4, 16, 4, 1, norm)
    shape = structure(shape.nodes, {*shape.entries, *((column, row) for row, column in shape.entries)})
    batch, engine = random_batch(shape, range(0, NODES, 8), 4, 4), TritonEngine()
    state = net.init_state(0)
    with torch.no_grad(), Allocations() as allocated:
        plan = engine.plan(net, batch)
        if mode == "fit":
            logits, vjp = engine.vjp(plan, state)
            vjp(torch.ones_like(logits))
        else:
            engine.logits(plan, state)
    entries = len(shape.entries)
    needed = engine.memory(net, Extent(NODES, entries, entries, NODES // 8), mode=mode)
    assert 0.85 <= needed.total / allocated.most <= 1.15


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_what_weights_of_edges_take_is_counted(kind: str) -> None:
    """Beside the batch itself, which is on the GPU too: the most is held while they are normalised."""
    shape, net = random_structure(60, 1000), Architecture(kind, 2, 4, 4, 4, weighted=True)
    batch, engine, entries = random_batch(shape, [0], 4, 4, weighted=True), TritonEngine(), len(shape.entries)
    with torch.no_grad(), Allocations() as allocated:
        engine.plan(net, batch)
    needed = engine.memory(net, Extent(60, entries, entries, 1), mode="evaluate")
    assert allocated.most <= needed.total - needed.plan["structure"] <= 2 * allocated.most


def limit(there: int) -> Limit:
    return Limit(100 * GIB, 100 * GIB, 512 * MIB, "machine.memory_limit = '100 GiB'", there)


def job(*overrides: str) -> Job:
    return jobs.load("quick-sage-products", overrides)


Plan = Callable[[Limit], tuple[Job, list[limits.Demand]]]
PHASES: dict[str, Plan] = {
    "ls": lambda most: limits.plan_souping(job("soup.methods=['ls']"), ON_GPU, most),
    "pls": lambda most: limits.plan_souping(job("soup.methods=['pls']"), ON_GPU, most),
    "distil": lambda most: limits.plan_souping(job("soup.methods=['distil']", "soup.distil.union=4"), ON_GPU, most),
    "full": lambda most: limits.plan_training(job("train.batch=full"), ON_GPU, most, ON_GPU.engine),
    "cluster": lambda most: limits.plan_training(job("train.batch=cluster"), ON_GPU, most, ON_GPU.engine),
    "neighbour": lambda most: limits.plan_training(job("train.batch=neighbour"), ON_GPU, most, ON_GPU.engine),
}


@pytest.mark.parametrize("plan", PHASES.values(), ids=PHASES)
def test_what_needs_more_than_there_is_is_refused_in_one_line(plan: Plan) -> None:
    limits.refuse(limit(64 * GIB), plan(limit(64 * GIB))[1])
    with pytest.raises(MemoryLimitError, match=r"the GPU has too little memory: .* needs .* of it") as error:
        limits.refuse(limit(100 * MIB), plan(limit(100 * MIB))[1])
    assert "machine.device_memory_limit" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


def test_nothing_is_refused_that_a_gpu_holds() -> None:
    demand = limits.plan_souping(job("soup.methods=['ls']"), ON_GPU, limit(64 * GIB))[1][-1]
    limits.refuse(limit(demand.gpu), [demand])
    with pytest.raises(MemoryLimitError, match=f"needs {format_bytes(demand.gpu)} of it"):
        limits.refuse(limit(demand.gpu - 1), [demand])
    assert f"and {format_bytes(demand.gpu)} of the GPU" in limits.describe(limit(64 * GIB), [demand], "")


@pytest.mark.parametrize("field", ["soup.pls.union", "train.clusters"])
def test_the_largest_union_that_the_gpu_holds_is_chosen(field: str) -> None:
    left_open = job("soup.pls.union=0", "train.clusters=0", "train.batch=cluster")

    def choose(most: Limit) -> int:
        if field == "soup.pls.union":
            return limits.plan_souping(left_open, ON_GPU, most)[0].soup.pls.union
        return limits.plan_training(left_open, ON_GPU, most, ON_GPU.engine)[0].train.clusters

    assert [choose(limit(size)) for size in (64 * GIB, GIB // 8)] == [8, 1]
    between = choose(limit(GIB))
    assert 1 < between < 8


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_needs_grow_with_the_union_and_with_the_ingredients(precision: Precision) -> None:
    unions = [gpu.pls(ON_GPU, 8, size, precision) for size in (1, 4, 8)]
    assert unions == sorted(unions)
    assert gpu.pls(ON_GPU, 8, 4, precision) < gpu.ls(ON_GPU, 8, precision) < gpu.ls(ON_GPU, 800, precision)
    assert gpu.ls(ON_GPU, 8, "bfloat16") < gpu.ls(ON_GPU, 8, "float32")


def test_nothing_is_counted_where_no_gpu_computes_or_only_pytorch_does() -> None:
    for sizes, engine in ((PRODUCTS, PRODUCTS.engine), (ON_GPU, TorchEngine())):
        assert gpu.full_batches(sizes, engine) == 0
        assert gpu.mini_batches(sizes, engine, sizes.union(2)) == 0
    assert gpu.ls(PRODUCTS, 8, "float32") == gpu.pls(PRODUCTS, 8, 2, "float32") == gpu.inference(PRODUCTS) == 0


def test_what_the_gpu_does_not_hold_is_evaluated_layer_by_layer() -> None:
    def describe(sizes: Sizes, there: int) -> str:
        return limits.describe_evaluation(sizes, 100 * GIB, there=there)

    assert describe(ON_GPU, 64 * GIB) == "in memory"
    assert describe(ON_GPU, GIB).startswith("layer by layer")
