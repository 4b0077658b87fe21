"""What fits in machine.memory_limit: numbers left open are chosen, what cannot fit is refused before it begins.

Everything is decided from sizes (estimate.py), so a chosen number is a function of the job, the graph and the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gnnsoup_hpc.config import DistilJob, Job, LearnedJob, format_bytes, parse_bytes
from gnnsoup_hpc.engine import Engine
from gnnsoup_hpc.engine.out_of_core import layers as sums
from gnnsoup_hpc.engine.out_of_core.module_layers import find_layers
from gnnsoup_hpc.errors import MemoryLimitError
from gnnsoup_hpc.graph.sampling import per_hop
from gnnsoup_hpc.memory import estimate, gpu
from gnnsoup_hpc.memory.estimate import CPU, MIB, LeftOut, Sizes
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.kinds import is_stack
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.gpu import allowed_bytes
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.profiling import host_bytes, release_freed_memory

LIBRARIES = 512 * MIB  # Python, PyTorch, compiled kernels and their compiler, once all of it is loaded
OGB = 96 * MIB  # what ogb's Evaluator loads besides
PYG = 160 * MIB  # what PyG's classes load, torch's compiler among it; other modules may load them too
WAVERING = 128 * MIB  # that may differ between two starts, and must not make another number be chosen
SPARE = 0.08  # of the work: what the allocator keeps between blocks of changing sizes


@dataclass(frozen=True)
class Limit:
    """A rank's bound. most: bytes of the whole process; refused: above this; libraries: what they take of it.

    gpu: bytes that it may allocate on its GPU; None where it has none.
    """

    most: int
    refused: int
    libraries: int
    text: str
    gpu: int | None = None

    @classmethod
    def of(cls, job: Job, here: RankInfo, device: torch.device = CPU) -> Limit:
        """The limit of a job on this rank. `auto` chooses by half of the memory, and refuses what exceeds all of it."""
        most = launch.memory_limit_bytes(job.machine, here)
        explicit = parse_bytes(job.machine.memory_limit) is not None
        release_freed_memory()
        loaded = host_bytes("VmRSS")
        libraries = LIBRARIES + (OGB if job.graph.source.startswith("ogb:") else 0)
        libraries += 0 if is_stack(job.model, job.graph.edge_attr == "use") else PYG
        if loaded > libraries + WAVERING:  # a GPU's driver, for one
            libraries = int(loaded)
        text = f"machine.memory_limit = {job.machine.memory_limit!r}"
        text, refused = (text, most) if explicit else (f"{text} ({format_bytes(most)})", 2 * most)
        return cls(most, refused, libraries, text, allowed_bytes(device) if device.type == "cuda" else None)

    @property
    def room(self) -> int:
        """Bytes for work."""
        return max(0, int((self.most - self.libraries) / (1 + SPARE)))

    def needed(self, work: int) -> int:
        """Bytes of the whole process for that much work."""
        return self.libraries + math.ceil(work * (1 + SPARE))

    def allows(self, work: int, gpu: int = 0) -> bool:
        """Whether that much work is not refused."""
        return self.needed(work) <= self.refused and self.allows_gpu(gpu)

    def allows_gpu(self, work: int) -> bool:
        """Whether so many bytes of the GPU are not refused."""
        return self.gpu is None or work <= self.gpu


@dataclass(frozen=True)
class Demand:
    """One thing that is to be done, and what it needs: bytes above the libraries, and of the GPU."""

    what: str
    work: int
    instead: str = ""
    gpu: int = 0


def plan_training(job: Job, sizes: Sizes, limit: Limit, engine: Engine) -> tuple[Job, list[Demand]]:
    """The job with train.clusters chosen, and what training needs."""
    how, vary = job.train, job.train.vary
    edges, features = any((how.drop_edges, *vary.drop_edges)), any((how.drop_features, *vary.drop_features))
    drops = LeftOut(edges, features)
    exact = how.batch == "cluster" and how.first_hop == "exact"
    way, least_inference = estimate.least_inference(sizes)
    least = max(estimate.cluster_batches(sizes, engine, 1, drops, exact), least_inference)
    there = gpu.mini_batches(sizes, engine, sizes.of_training.union(1), how.precision)
    instead = "train.batch = 'cluster'" if how.batch != "cluster" and limit.allows(least, there) else ""
    clusters = how.clusters or 1
    if how.batch == "full":
        work, there = estimate.full_batches(sizes, engine, drops), gpu.full_batches(sizes, engine, how.precision)
        demands = [Demand("training on full batches", work, instead, there)]
    else:
        demands, store = [], 0
        if how.batch == "neighbour":
            store = estimate.neighbour_store(sizes)
            hops = tuple(per_hop(how.fanout, sizes.net.hops or 1))
            work = estimate.neighbour_batches(sizes, engine, how.batch_size, hops, drops)
            there = gpu.mini_batches(sizes, engine, estimate.sample(sizes, how.batch_size, hops), how.precision)
            demands = [Demand("training on neighbour batches", work, instead, there)]

        def needed(size: int) -> tuple[int, int]:
            work = store + estimate.cluster_batches(sizes, engine, size, drops, exact)
            return work, gpu.mini_batches(sizes, engine, sizes.of_training.union(size), how.precision)

        clusters = how.clusters or _choose_union(sizes, limit, needed)
        fewer = _suggest_fewer("train.clusters", limit, needed, clusters) or instead
        work, there = needed(clusters)
        demands += [
            Demand(f"training on unions of {clusters} of {sizes.parts} parts", work, fewer, there),
            Demand(way, store + least_inference, instead),
        ]
    return job.model_copy(update={"train": how.model_copy(update={"clusters": clusters})}), demands


def plan_souping(job: Job, sizes: Sizes, limit: Limit, ranks: int = 1) -> tuple[Job, list[Demand]]:
    """The job with soup.pls.union chosen, and what its methods need of each of so many ranks.

    The union does not depend on their number, nor does a soup.
    """
    count, methods, by_states = job.train.ingredients, job.soup.methods, job.soup.align == "activations"

    precision, exact = job.soup.precision, job.soup.pls.first_hop == "exact"

    def pls(size: int) -> tuple[int, int]:
        return estimate.pls(sizes, count, size, exact), gpu.pls(sizes, count, size, precision)

    def states(size: int) -> tuple[int, int]:
        return estimate.activations(sizes, count, size), 0

    def both(size: int) -> tuple[int, int]:
        return max(pls(size)[0], by_states * states(size)[0]), pls(size)[1]

    way, least = estimate.least_inference(sizes)
    demands = [
        Demand(f"the least, {count} ingredients and {way.rstrip(',')},", estimate.mixing(sizes.net, count) + least)
    ]
    if "ls" in methods:
        shared = ranks > 1 and sizes.engine.divides
        what = f"ls, on a share of the whole graph for each of {ranks} ranks," if shared else "ls, on the whole graph,"
        instead = "soup.methods without 'ls'"  # whether pls fits is said of it
        if "pls" not in methods:
            instead = "'pls' for 'ls'" if limit.allows(*pls(1)) else ""
        demands.append(Demand(what, estimate.ls(sizes, count, ranks), instead, gpu.ls(sizes, count, precision)))
    union = job.soup.pls.union or _choose_union(sizes, limit, both)
    if "pls" in methods:
        fewer = _suggest_fewer("soup.pls.union", limit, pls, union)
        work, there = pls(union)
        demands.append(Demand(f"pls with R = {union} of {sizes.parts} parts", work, fewer, there))
    if by_states:
        fewer = _suggest_fewer("soup.pls.union", limit, states, union)
        what = f"alignment by activations on unions of {union} of {sizes.parts} parts"
        demands.append(Demand(what, states(union)[0], fewer))
    chosen: dict[str, LearnedJob | DistilJob] = {"pls": job.soup.pls.model_copy(update={"union": union})}
    if "distil" in methods:
        chosen["distil"], more = _plan_distil(job, sizes, limit)
        demands.append(more)
    return job.model_copy(update={"soup": job.soup.model_copy(update=chosen)}), demands


def _plan_distil(job: Job, sizes: Sizes, limit: Limit) -> tuple[DistilJob, Demand]:
    options, count, precision = job.soup.distil, job.train.ingredients, job.soup.precision

    def needed(size: int) -> tuple[int, int]:
        return estimate.distil(sizes, count, size), gpu.distil(sizes, count, size, precision)

    union = options.union or _choose_union(sizes, limit, needed, sizes.parts)
    fewer = _suggest_fewer("soup.distil.union", limit, needed, union)
    work, there = needed(union)
    what = f"distil on unions of {union} of {sizes.parts} parts"
    return options.model_copy(update={"union": union}), Demand(what, work, fewer, there)


Need = Callable[[int], tuple[int, int]]  # of a union of so many parts: bytes above the libraries, and of the GPU


def _choose_union(sizes: Sizes, limit: Limit, need: Need, most: int = estimate.MOST_PARTS) -> int:
    """The largest union that fits, of at most so many parts; 1 where none does, which is then refused."""
    for size in range(min(most, sizes.parts), 0, -1):
        work, there = need(size)
        if limit.needed(work) <= limit.most and limit.allows_gpu(there):
            return size
    return 1


def _suggest_fewer(field: str, limit: Limit, need: Need, below: int) -> str:
    """The largest union, of fewer parts than `below`, that is not refused, as the value of `field`; "" if none is."""
    largest = next((size for size in range(below - 1, 0, -1) if limit.allows(*need(size))), 0)
    return f"{field} = {largest} (the largest that fits)" if largest else ""


def refuse(limit: Limit, demands: Sequence[Demand]) -> None:
    """Raises: MemoryLimitError where something does not fit, naming all that does not and what would do."""
    _refuse_gpu(limit, demands)
    excess = [demand for demand in demands if not limit.allows(demand.work)]
    if excess:
        least = max(limit.needed(demand.work) for demand in excess)
        ways = [demand.instead for demand in excess]  # they would do only together
        instead = f", or use {', '.join(dict.fromkeys(ways))}" if all(ways) else ""
        raise MemoryLimitError(
            f"{limit.text} is too little (libraries alone take {format_bytes(limit.libraries)}):"
            f" {_list_needs(limit, excess)}. Give at least --memory-limit '{format_bytes(least)}'{instead}"
        )


def _refuse_gpu(limit: Limit, demands: Sequence[Demand]) -> None:
    excess = [demand for demand in demands if not limit.allows_gpu(demand.gpu)]
    if excess and limit.gpu is not None:
        needs = "; ".join(f"{demand.what} needs {format_bytes(demand.gpu)}" for demand in excess)
        ways = list(dict.fromkeys(demand.instead for demand in excess if demand.instead))
        instead = f", or use {', '.join(ways)}" if ways else ""
        raise MemoryLimitError(
            f"the GPU has too little memory: {needs} of it, and this rank may use {format_bytes(limit.gpu)}"
            " (machine.device_memory_limit, or its share of the GPU). Give more, fewer ranks a GPU, or machine.device ="
            f" 'cpu'{instead}"
        )


def refuse_before_graph(limit: Limit) -> None:
    """Raises: MemoryLimitError where not even the libraries fit; what a job needs is known from its graph on."""
    if limit.libraries > limit.refused:
        raise MemoryLimitError(
            f"{limit.text} is too little: libraries alone take {format_bytes(limit.libraries)}. Give more; how much"
            " this job needs is told once its graph is there (`gnnsoup prepare JOB`)"
        )


def describe_evaluation(sizes: Sizes, memory: int, ranks: int = 1, there: int | None = None) -> str:
    """How accuracies are told within so many bytes of each of so many ranks, and of their GPUs, in words."""
    if ranks > 1 and sizes.engine.divides and estimate.inference(sizes, True, ranks) <= memory:
        return f"in memory, on a share of the graph for each of {ranks} ranks"
    if estimate.inference(sizes) <= memory and (there is None or gpu.inference(sizes) <= there):
        return "in memory"
    nodes, net = sizes.whole.nodes, sizes.net
    if find_layers(net) is None:
        return "by the neighbourhoods of nodes"
    held = [4 * nodes * width for width in sums.stored_widths(net)] if isinstance(net, Architecture) else []
    if not held:
        return "layer by layer"
    filled, spilled = 0, 0
    for size in held:
        stays = sums.fits_in_memory(memory, filled, size)
        spilled, filled = spilled + (not stays), size if stays else 0
    return f"layer by layer, {spilled} of {len(held)} hidden layers spilled to a file"


def describe(limit: Limit, demands: Sequence[Demand], accuracies: str) -> str:
    """One line on what was decided."""
    needs = _list_needs(limit, demands)
    return f"memory limit {format_bytes(limit.most)}: {needs}; here accuracies are computed {accuracies}"


def _list_needs(limit: Limit, demands: Sequence[Demand]) -> str:
    needs = []
    for demand in demands:
        there = f" and {format_bytes(demand.gpu)} of the GPU" if demand.gpu else ""
        needs.append(f"{demand.what} needs {format_bytes(limit.needed(demand.work))}{there}")
    return "; ".join(needs)
