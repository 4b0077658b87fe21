"""Sharing of the ingredients among ranks and jobs: lease, train, publish, until all are there."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from gnnsoup_hpc import budget, leases, limits, stream
from gnnsoup_hpc.budget import Sizes
from gnnsoup_hpc.errors import FileError, ForeignFileError, RunError
from gnnsoup_hpc.evaluate import Evaluator
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.limits import Limit
from gnnsoup_hpc.measure import warm_up
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.prepare import note_job
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place, slurm_job, threads
from gnnsoup_hpc.records import Role, State
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.sampling import resolved
from gnnsoup_hpc.store import files, states
from gnnsoup_hpc.store import graph as graph_store
from gnnsoup_hpc.store import ingredient as ingredient_store
from gnnsoup_hpc.store.graph import GraphFile
from gnnsoup_hpc.store.ingredient import Origin
from gnnsoup_hpc.train.batches import Batches, ClusterBatches, FullBatches, NeighbourBatches
from gnnsoup_hpc.train.loop import Course, train

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Bench:
    """What a rank needs to train any ingredient of the run."""

    job: Job
    run: RunDir
    architecture: Architecture
    graph: GraphFile
    initial: State
    here: Place
    device: torch.device
    log: Log

    def origin(self, index: int) -> Origin:
        """What ingredient `index` is a function of."""
        return Origin.of(self.job, self.architecture, self.graph, states.sha256(self.initial), index)


def train_all(job: Job, here: Place, device: torch.device, log: Log, souping: bool = False) -> None:
    """Return when every ingredient of the job is there, having trained those that no one else did.

    With `souping` to follow, what that needs is asked too before anything is trained.
    Raises: RunError where the run holds ingredients of another recipe; MemoryLimitError where something does not fit.
    """
    run = RunDir.of(job)
    with graph_store.opened(run.graph, job) as graph:
        architecture = Architecture.of(job.model, graph.features, graph.classes)
        job = _within_limit(job, run, here, Sizes.of(graph, architecture, device.type == "cuda"), log, souping)
        initial = _initial(job, run, architecture, log)
        bench = Bench(job, run, architecture, graph, initial, here, device, log)
        missing = [index for index in range(job.train.ingredients) if not _is_there(bench, index)]
        if here.rank == 0:
            note_job(job)
        if len(missing) < job.train.ingredients:
            there = job.train.ingredients - len(missing)
            log.say(f"train: {there} of {job.train.ingredients} ingredients are there already")
        if missing:
            warm_up(device)
            _share(bench, graph, missing)
    paths = [run.ingredient(index) for index in range(job.train.ingredients)]
    if missing or ingredient_store.gathered(run.gathered) != [path.stem for path in paths]:
        ingredient_store.gather(run.gathered, paths, initial, job)


def _within_limit(job: Job, run: RunDir, here: Place, sizes: Sizes, log: Log, souping: bool) -> Job:
    """The job with train.clusters chosen; said and refused only where something is left to be trained or souped."""
    limit, job = Limit.of(job, here), ingredient_store.settled(job, run)
    resolved_job, training = limits.decided_training(job, sizes, limit)
    souped = limits.decided_souping(job, sizes, limit)[1] if souping else []
    if all(run.ingredient(index).exists() for index in range(job.train.ingredients)):
        limits.refuse(limit, souped)
        return resolved_job
    limits.refuse(limit, [*training, *souped])
    full = job.train.batch == "full"
    way = "in memory" if full else limits.way(sizes, _evaluation_bytes(resolved_job, sizes, limit))
    log.say(f"train: {limits.said(limit, training, way)}")
    return resolved_job


def _evaluation_bytes(job: Job, sizes: Sizes, limit: Limit) -> int:
    """What the limit leaves for exact accuracies beside what mini-batches hold."""
    return max(0, limit.room - (budget.neighbour_store(sizes) if job.train.batch == "neighbour" else 0))


def _initial(job: Job, run: RunDir, architecture: Architecture, log: Log) -> State:
    """The run's initial state; whoever comes first saves it, and all read what is saved.

    It is a function of the job, so two that come first together replace equals by equals, and a damaged one is made
    again.
    """
    try:
        if run.initial.exists():
            return ingredient_store.read_initial(run.initial, architecture, job.train.seed)
    except FileError as error:
        log.say(f"train: {error}; made again")
    ingredient_store.write_initial(run.initial, architecture.initial_state(job.train.seed), architecture, job)
    return ingredient_store.read_initial(run.initial, architecture, job.train.seed)


def _is_there(bench: Bench, index: int) -> bool:
    """Whether ingredient `index` is there and right; not, if it is damaged.

    Raises: RunError for a sound one of another recipe: it is somebody's work, and not ours to replace.
    """
    path = bench.run.ingredient(index)
    try:
        ingredient_store.read(path, bench.origin(index))
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {path} away") from None
    except FileError:
        return False
    return True


def _share(bench: Bench, graph: GraphFile, missing: list[int]) -> None:
    """Train what is missing, one lease after the other; wait for what others hold, and take over what they drop.

    Ranks begin at different ingredients, so that they rarely ask for the same lease.
    """
    course: Course | None = None
    start = bench.here.rank % len(missing)
    todo = missing[start:] + missing[:start]
    while todo:
        held_by_others = []
        for index in todo:
            with leases.held(bench.run.lease(f"ingredient-{index:04d}")) as ours:
                if not ours:
                    held_by_others.append(index)
                elif not _is_there(bench, index):
                    course = course or _course(bench, graph)
                    _train_one(bench, course, index)
        if held_by_others == todo:
            time.sleep(POLL_SECONDS)
        todo = held_by_others


def _train_one(bench: Bench, course: Course, index: int) -> None:
    """Train and publish one ingredient; a damaged file in its place is set aside first."""
    path, origin = bench.run.ingredient(index), bench.origin(index)
    if path.exists():
        bench.log.say(f"train: {path} is damaged; set aside as {files.set_aside(path).name}, and trained again")
    bar = bench.log.bar(origin.hyperparameters.epochs, f"ingredient {index:04d}")
    ingredient = train(course, bench.initial, origin.hyperparameters, bench.job.train.seed, index, bar)
    bar.close()
    where = {"rank": bench.here.rank, "ranks": bench.here.size, "threads": threads(), "device": str(bench.device)}
    ingredient_store.write(path, ingredient, origin, bench.job, **where, **slurm_job())
    bench.log.say(
        f"train: ingredient {index:04d} done in {ingredient.measurement['seconds']:.1f} s, validation"
        f" {ingredient.validation_accuracy:.4f} (epoch {ingredient.best_epoch}), {ingredient.stopped}"
    )


def _course(bench: Bench, graph: GraphFile) -> Course:
    """What the job's [train] says to train on; read when the first ingredient is begun."""
    sizes = Sizes.of(graph, bench.architecture, bench.device.type == "cuda")
    memory = _evaluation_bytes(bench.job, sizes, Limit.of(bench.job, bench.here))
    evaluator = Evaluator(graph, bench.architecture, memory, bench.run.root, bench.device)
    batches = _batches(bench, graph)
    if isinstance(batches, FullBatches):
        evaluator.keep(batches.validation)  # it is in memory anyway
    return Course(bench.architecture, batches, evaluator, bench.device)


def _batches(bench: Bench, graph: GraphFile) -> Batches:
    how = bench.job.train
    if how.batch == "full":
        view = stream.whole(graph, Role.TRAIN).to(bench.device)
        return FullBatches(view, stream.same_graph(graph, view, Role.VALIDATION))
    if how.batch == "cluster":
        return ClusterBatches(graph, how.clusters, bench.device)
    return NeighbourBatches(
        graph=graph,
        clusters=how.clusters,
        device=bench.device,
        size=how.batch_size,
        fanout=how.fanout,
        layers=bench.architecture.layers,
        sampler=resolved(how.sampler),
    )
