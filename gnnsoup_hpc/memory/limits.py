"""What fits in machine.memory_limit: numbers left open are chosen, what cannot fit is refused before it begins.

Everything is decided from sizes (estimate.py), so a chosen number is a function of the job, the graph and the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gnnsoup_hpc.config import Job, format_bytes, parse_bytes
from gnnsoup_hpc.engine.memory import total
from gnnsoup_hpc.engine.out_of_core import layers as sums
from gnnsoup_hpc.errors import MemoryLimitError
from gnnsoup_hpc.graph.sampling import per_hop
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import MIB, Sizes
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.profiling import host_bytes, release_freed_memory

LIBRARIES = 512 * MIB  # Python, PyTorch, compiled kernels and their compiler, once all of it is loaded
OGB = 96 * MIB  # what ogb's Evaluator loads besides
WAVERING = 128 * MIB  # that may differ between two starts, and must not make another number be chosen
SPARE = 0.08  # of the work: what the allocator keeps between blocks of changing sizes


@dataclass(frozen=True)
class Limit:
    """A rank's bound. most: bytes of the whole process; refused: above this; libraries: what they take of it."""

    most: int
    refused: int
    libraries: int
    text: str

    @classmethod
    def of(cls, job: Job, here: RankInfo) -> Limit:
        """The limit of a job on this rank. `auto` chooses by half of the memory, and refuses what exceeds all of it."""
        most = launch.memory_limit_bytes(job.machine, here)
        explicit = parse_bytes(job.machine.memory_limit) is not None
        release_freed_memory()
        loaded = host_bytes("VmRSS")
        libraries = LIBRARIES + (OGB if job.graph.source.startswith("ogb:") else 0)
        if loaded > libraries + WAVERING:  # a GPU's driver, for one
            libraries = int(loaded)
        text = f"machine.memory_limit = {job.machine.memory_limit!r}"
        return cls(
            most, most if explicit else 2 * most, libraries, text if explicit else f"{text} ({format_bytes(most)})"
        )

    @property
    def room(self) -> int:
        """Bytes for work."""
        return max(0, int((self.most - self.libraries) / (1 + SPARE)))

    def needed(self, work: int) -> int:
        """Bytes of the whole process for that much work."""
        return self.libraries + math.ceil(work * (1 + SPARE))


@dataclass(frozen=True)
class Demand:
    """One thing that is to be done, and what it needs above the libraries."""

    what: str
    work: int
    instead: str = ""


def plan_training(job: Job, sizes: Sizes, limit: Limit) -> tuple[Job, list[Demand]]:
    """The job with train.clusters chosen, and what training needs."""
    drops = bool(job.train.drop_edges or any(job.train.vary.drop_edges))
    if job.train.batch == "full":
        instead = _cluster_instead(sizes, limit, drops)
        demand = Demand("training on full batches", estimate.trained_full(sizes, drops), instead)
        return with_clusters(job, job.train.clusters or 1), [demand]
    store = estimate.neighbour_store(sizes) if job.train.batch == "neighbour" else 0

    def needed(size: int) -> int:
        return store + estimate.trained_clusters(sizes, size, drops)

    clusters = job.train.clusters or _largest(sizes, limit, needed)
    demands, instead = [], ""
    if job.train.batch == "neighbour":
        instead = _cluster_instead(sizes, limit, drops)
        hops = tuple(per_hop(job.train.fanout, sizes.net.hops or 1))
        work = estimate.trained_neighbour(sizes, job.train.batch_size, hops, drops)
        demands.append(Demand("training on neighbour batches", work, instead))
    fewer = _or("clusters", _fitting(sizes, limit, needed, clusters)) or instead
    demands.append(Demand(f"training on unions of {clusters} of {sizes.parts} parts", needed(clusters), fewer))
    demands.append(Demand("accuracies layer by layer", store + estimate.layer_by_layer(sizes), instead))
    return with_clusters(job, clusters), demands


def plan_souping(job: Job, sizes: Sizes, limit: Limit, ranks: int = 1) -> tuple[Job, list[Demand]]:
    """The job with soup.pls.union chosen, and what its methods need of each of so many ranks.

    The union does not depend on their number, nor does a soup.
    """
    count = job.train.ingredients
    shelf = total(estimate.shelf(sizes.net, count))
    demands = [Demand(f"{count} ingredients, and accuracies layer by layer", shelf + estimate.layer_by_layer(sizes))]
    if "ls" in job.soup.methods:
        shared = ranks > 1 and sizes.divides
        what = f"ls, on a share of the whole graph for each of {ranks} ranks," if shared else "ls, on the whole graph,"
        demands.append(Demand(what, estimate.learned(sizes, count, ranks), _pls_instead(job, sizes, limit)))

    def work(size: int) -> int:
        return _partition_learned(job, sizes, size)

    def states(size: int) -> int:
        return estimate.activations(sizes, count, size)

    by_states = job.soup.align == "activations"
    union = job.soup.pls.union or _largest(sizes, limit, lambda size: max(work(size), by_states * states(size)))
    if "pls" in job.soup.methods:
        largest = _fitting(sizes, limit, work, union)
        demands.append(Demand(f"pls with R = {union} of {sizes.parts} parts", work(union), _or("pls.union", largest)))
    if by_states:
        largest = _fitting(sizes, limit, states, union)
        what = f"alignment by activations on unions of {union} of {sizes.parts} parts"
        demands.append(Demand(what, states(union), _or("pls.union", largest)))
    pls = job.soup.pls.model_copy(update={"union": union})
    return job.model_copy(update={"soup": job.soup.model_copy(update={"pls": pls})}), demands


def refuse(limit: Limit, demands: Sequence[Demand]) -> None:
    """Raises: MemoryLimitError where something does not fit, naming all that does not and what would do."""
    excess = [demand for demand in demands if limit.needed(demand.work) > limit.refused]
    if excess:
        each = "; ".join(_told(limit, demand) for demand in excess)
        least = max(limit.needed(demand.work) for demand in excess)
        raise MemoryLimitError(
            f"{limit.text} is too little (libraries alone take {format_bytes(limit.libraries)}): {each}. Give at least"
            f" --memory-limit '{format_bytes(least)}'{_instead(excess)}"
        )


def refuse_before_graph(limit: Limit) -> None:
    """Raises: MemoryLimitError where not even the libraries fit; what a job needs is known from its graph on."""
    if limit.libraries > limit.refused:
        raise MemoryLimitError(
            f"{limit.text} is too little: libraries alone take {format_bytes(limit.libraries)}. Give more; how much"
            " this job needs is told once its graph is there (`gnnsoup prepare JOB`)"
        )


def describe_evaluation(sizes: Sizes, memory: int, ranks: int = 1) -> str:
    """How accuracies are told within so many bytes of each of so many ranks, in words."""
    if ranks > 1 and sizes.divides and estimate.inference(sizes, True, ranks) <= memory:
        return f"in memory, on a share of the graph for each of {ranks} ranks"
    if estimate.inference(sizes) <= memory:
        return "in memory"
    nodes, net = sizes.whole.nodes, sizes.net
    held = [4 * nodes * width for width in sums.stored_widths(net)] if isinstance(net, Architecture) else []
    filled, spilled = 0, 0
    for size in held:
        stays = sums.fits_in_memory(memory, filled, size)
        spilled, filled = spilled + (not stays), size if stays else 0
    return f"layer by layer, {spilled} of {len(held)} hidden layers spilled to a file"


def describe(limit: Limit, demands: Sequence[Demand], accuracies: str) -> str:
    """One line on what was decided."""
    each = "; ".join(f"{demand.what} needs {format_bytes(limit.needed(demand.work))}" for demand in demands)
    return f"memory limit {format_bytes(limit.most)}: {each}; accuracies {accuracies}"


def _told(limit: Limit, demand: Demand) -> str:
    return f"{demand.what} needs {format_bytes(limit.needed(demand.work))}"


def _instead(excess: Sequence[Demand]) -> str:
    """Other ways that together would do; none where one of the demands has no other way."""
    ways = [demand.instead for demand in excess]
    return f", or use {', '.join(dict.fromkeys(ways))}" if all(ways) else ""


def _or(field: str, largest: int) -> str:
    section = "soup" if field == "pls.union" else "train"
    return f"{section}.{field} = {largest} (the largest that fits)" if largest else ""


def _fitting(sizes: Sizes, limit: Limit, work: Callable[[int], int], below: int) -> int:
    """The largest union, of fewer parts than `below`, that is not refused; 0 where none is."""
    fits = (size for size in range(below - 1, 0, -1) if limit.needed(work(size)) <= limit.refused)
    return next(fits, 0)


def _largest(sizes: Sizes, limit: Limit, work: Callable[[int], int]) -> int:
    """The largest union that fits, of at most MOST_PARTS parts; 1 where none does, which is then refused."""
    return next((size for size in _sizes(sizes) if limit.needed(work(size)) <= limit.most), 1)


def _sizes(sizes: Sizes) -> Iterator[int]:
    yield from range(min(estimate.MOST_PARTS, sizes.parts), 0, -1)


def _cluster_instead(sizes: Sizes, limit: Limit, drop_edges: bool) -> str:
    least = max(estimate.trained_clusters(sizes, 1, drop_edges), estimate.layer_by_layer(sizes))
    return "train.batch = 'cluster'" if limit.needed(least) <= limit.refused else ""


def _pls_instead(job: Job, sizes: Sizes, limit: Limit) -> str:
    """What to do without LS; where the job asks for PLS anyway, whether that fits is said of it."""
    if "pls" in job.soup.methods:
        return "soup.methods without 'ls'"
    return "'pls' for 'ls'" if limit.needed(_partition_learned(job, sizes, 1)) <= limit.refused else ""


def _partition_learned(job: Job, sizes: Sizes, union: int) -> int:
    return estimate.partition_learned(sizes, job.train.ingredients, union, job.soup.pls.first_hop == "exact")


def with_clusters(job: Job, clusters: int) -> Job:
    """The job with train.clusters as said."""
    return job.model_copy(update={"train": job.train.model_copy(update={"clusters": clusters})})
