"""Training for a run: its initial state, its trunk, and its ingredients, shared among ranks and jobs by leases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import without_effect
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.data.prepare import note_job
from gnnsoup_hpc.errors import DivergedError, FileError, ForeignFileError, IngredientsError, RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.sampling import resolve_sampler
from gnnsoup_hpc.io import files, states
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import summary as gathered
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.memory import estimate, limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.launch import RankInfo, read_slurm_job
from gnnsoup_hpc.runtime.leases import Lease, LeaseMonitor
from gnnsoup_hpc.runtime.profiling import warm_up
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.batches import Batches, ClusterBatches, FullBatches, NeighbourBatches
from gnnsoup_hpc.train.checkpointing import CheckpointManager, OvertakenError
from gnnsoup_hpc.train.loop import TrainData, train, train_trunk
from gnnsoup_hpc.train.task_board import TaskBoard, remove_leftovers
from gnnsoup_hpc.types import Role, State

POLL_SECONDS = 1.0


@dataclass
class TrainContext:
    """A rank's place at a run; what it trains on is read when it is first asked for.

    initial: what ingredients start from; trunk: the state that all branch from, where the job asks for one.
    """

    job: Job
    run: RunDir
    model: Model
    graph: GraphFile
    here: RankInfo
    device: torch.device
    log: Log
    initial: State = field(default_factory=dict)
    trunk: State | None = None

    def __post_init__(self) -> None:
        self.board = TaskBoard(self.run, self.here, self.log)

    @property
    def provenance(self) -> dict[str, object]:
        """What a file that was trained here says of where that was."""
        threads, device = torch.get_num_threads(), str(self.device)
        here = {"rank": self.here.rank, "ranks": self.here.size, "threads": threads, "device": device}
        return here | read_slurm_job()

    @cached_property
    def data(self) -> TrainData:
        """What the job's [train] says to train on."""
        warm_up(self.device)
        sizes = Sizes.of(self.graph, self.model, self.device)
        memory = _evaluation_bytes(self.job, sizes, Limit.of(self.job, self.here))
        evaluator = Evaluator(self.graph, self.model, EvalSettings(self.device, memory, self.run.root))
        how, where = self.job.train, (self.graph, self.job.train.clusters, self.device)
        batches: Batches
        if how.batch == "full":
            view = loader.load_whole(self.graph, Role.TRAIN).to(self.device)
            batches = FullBatches(view, loader.share_graph(self.graph, view, Role.VALIDATION))
            evaluator.keep(batches.validate)  # it is in memory anyway
        elif how.batch == "cluster":
            batches = ClusterBatches(*where)
        else:
            hops, sampler = self.model.hops or 1, resolve_sampler(how.sampler)
            batches = NeighbourBatches(*where, how.batch_size, how.fanout, hops, sampler)
        return TrainData(self.model, batches, evaluator, self.device)

    def start_of(self, index: int) -> State:
        """What ingredient `index` is trained from."""
        if self.job.train.start == "own":
            return ingredient_store.make_own_start(self.model, self.job.train.seed, index)
        return self.initial if self.trunk is None else self.trunk

    def origin_of(self, index: int) -> Origin:
        """What ingredient `index` is a function of."""
        trunk = "" if self.trunk is None else states.sha256(self.trunk)
        return Origin.of(self.job, self.model, self.graph, states.sha256(self.initial), index, trunk)

    @contextmanager
    def hold(self, work: str, monitor: LeaseMonitor) -> Iterator[Lease | None]:
        """The lease of a piece of work, if it is ours until the block ends; signals to stop come after that."""
        lease = self.run.lease(work)
        with self.here.stop.later(), leases.hold(lease, launch.describe(self.here), monitor) as ours:
            yield ours

    def checkpoints(self, work: str, title: str, origin: Origin, lease: Lease) -> CheckpointManager:
        """Who keeps the checkpoint of a piece of work, which is trained under `lease`."""
        return CheckpointManager(self.run.checkpoint(work), title, origin, self.job, lease, self.log, self.provenance)


def train_all(job: Job, here: RankInfo, device: torch.device, log: Log, souping: bool = False) -> None:
    """Return when every ingredient of the job is there, having trained those that no one else did.

    With `souping` to follow, what that needs is asked too before anything is trained.
    Raises: RunError where the run holds an initial state, a trunk or ingredients of another recipe; DivergedError where
    the trunk cannot be trained; MemoryLimitError where something does not fit; IngredientsError where some cannot be
    trained, once all others are there.
    """
    run, everyone = RunDir.of(job), range(job.train.ingredients)
    with graph_store.open_graph(run.graph, job) as graph:
        model = make_model(job.model, graph.features, graph.classes)
        job = _within_limit(job, run, here, Sizes.of(graph, model, device), log, souping)
        context = TrainContext(job, run, model, graph, here, device, log)
        context.initial = _load_initial(context)
        context.trunk = _load_trunk(context) if job.train.trunk_epochs else None
        missing = [index for index in everyone if _find_fault(context, index)]
        if here.rank == 0:
            note_job(job)
        _describe_work(context, len(missing))
        failed = _share(context, missing) if missing else {}
    if here.rank == 0:
        remove_leftovers(run, ["trunk", *(_work(index) for index in everyone if index not in failed)])
    if failed:
        names = ", ".join(f"{index:04d}" for index in sorted(failed))
        raise IngredientsError(
            f"{len(failed)} of {len(everyone)} ingredients failed, all others are there: {names}. The first:"
            f" {failed[min(failed)]}. The same command tries them again; `gnnsoup status` says why of each"
        )
    paths = [run.ingredient(index) for index in everyone]
    if missing or gathered.names(run.gathered) != [path.stem for path in paths]:
        gathered.gather(run.gathered, paths, context.initial, job)


def _within_limit(job: Job, run: RunDir, here: RankInfo, sizes: Sizes, log: Log, souping: bool) -> Job:
    """The job with train.clusters chosen; said and refused only where something is left to be trained or souped."""
    limit, job = Limit.of(job, here), ingredient_store.resolve_job(job, run)
    resolved_job, training = limits.plan_training(job, sizes, limit)
    souped = limits.plan_souping(job, sizes, limit, here.size)[1] if souping else []
    there = all(run.ingredient(index).exists() for index in range(job.train.ingredients))
    if there and (run.trunk.exists() or not job.train.trunk_epochs):
        limits.refuse(limit, souped)
        return resolved_job
    limits.refuse(limit, [*training, *souped])
    full = job.train.batch == "full"
    way = "in memory" if full else limits.describe_evaluation(sizes, _evaluation_bytes(resolved_job, sizes, limit))
    log.say(f"train: {limits.describe(limit, training, way)}")
    return resolved_job


def _evaluation_bytes(job: Job, sizes: Sizes, limit: Limit) -> int:
    """What the limit leaves for exact accuracies beside what mini-batches hold."""
    return max(0, limit.room - (estimate.neighbour_store(sizes) if job.train.batch == "neighbour" else 0))


def _describe_work(context: TrainContext, missing: int) -> None:
    """Say what is there, what the job sets in vain, and what is odd about it."""
    job, here, log, count = context.job, context.here, context.log, context.job.train.ingredients
    if here.rank == 0:
        if names := ", ".join(without_effect(job)):
            log.say(f"train: without effect on these ingredients: {names}")
        there = [path.stem for path in context.run.ingredients.glob("*.h5") if path.stem.isdecimal()]
        if more := sorted(name for name in there if int(name) >= count):
            are = "is" if len(more) == 1 else "are"
            log.say(f"train: {', '.join(more)} {are} there too, and beyond train.ingredients = {count}: not souped")
    if missing < count:
        log.say(f"train: {count - missing} of {count} ingredients are there already")
    idle = here.size - missing
    if missing and idle > 0 and here.rank == 0:
        have, what = "has" if idle == 1 else "have", "ingredient" if missing == 1 else "ingredients"
        log.say(f"train: {idle} of {here.size} ranks {have} nothing to train: {missing} {what}")
    if missing and count > 1 and not job.train.differ:
        log.say(
            "train: nothing makes the ingredients differ, so all will be equal and no soup can gain: set train.dropout,"
            " train.drop_edges or train.vary, take mini-batches, or name less in train.shared_draws"
        )


@contextmanager
def _refuse_foreign(path: Path) -> Iterator[None]:
    """Raises: RunError for a sound file of another recipe: it is somebody's work, and not ours to replace."""
    try:
        yield
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {path} away") from None


# ---- what ingredients start from


def _load_initial(context: TrainContext) -> State:
    """The run's initial state; whoever comes first saves it, and all read what is saved.

    It is a function of the job, so two that come first together replace equals by equals, and a damaged one is made
    again.
    """
    path, model, seed = context.run.initial, context.model, context.job.train.seed
    try:
        if path.exists():
            return ingredient_store.read_initial(path, model, seed)
    except FileError as error:
        context.log.say(f"train: {error}; made again")
    ingredient_store.write_initial(path, model.init_state(seed), model, context.job)
    return ingredient_store.read_initial(path, model, seed)


def _load_trunk(context: TrainContext) -> State:
    """The run's trunk: one rank trains it under a lease while the others wait; a damaged one is made again.

    Raises: RunError for a sound one of another recipe; DivergedError where it cannot be trained.
    """
    origin = Origin.of(context.job, context.model, context.graph, states.sha256(context.initial), None)
    monitor, waiting = LeaseMonitor(), False
    while (found := _read_trunk(context, origin)) is None:
        with context.hold("trunk", monitor) as ours:
            if ours and _read_trunk(context, origin) is None:
                if why := context.board.failed("trunk"):
                    raise DivergedError(why)
                with suppress(OvertakenError):
                    _train_trunk(context, origin, ours)
        if not ours:
            if not waiting:
                holder = leases.describe_holder(context.run.lease("trunk"))
                context.log.say(f"train: waiting for {holder}, who trains the trunk")
            waiting = True
            time.sleep(POLL_SECONDS)
    return found


def _read_trunk(context: TrainContext, origin: Origin) -> State | None:
    """The trunk, if it is there and right."""
    path = context.run.trunk
    if not path.exists():
        return None
    try:
        with _refuse_foreign(path):
            return ingredient_store.read_trunk(path, origin).state
    except FileError as error:
        context.log.say(f"train: {error}; made again")
        return None


def _train_trunk(context: TrainContext, origin: Origin, lease: Lease) -> None:
    """Train and publish the trunk."""
    how, seed = origin.hyperparameters, context.job.train.seed
    checkpoints = context.checkpoints("trunk", "the trunk", origin, lease)
    with context.board.watch("trunk", "trunk", how.epochs) as bar:
        trunk = train_trunk(context.data, context.initial, how, seed, bar, checkpoints)
    ingredient_store.write_trunk(context.run.trunk, trunk, origin, context.job, **context.provenance)
    checkpoints.remove()
    context.board.forget_failure("trunk")
    context.log.say(
        f"train: trunk done in {trunk.measurement['seconds']:.1f} s, {len(trunk.history)} epochs, validation"
        f" {trunk.history[-1].validation_accuracy:.4f} between epochs"
    )


# ---- ingredients


def _work(index: int) -> str:
    return f"ingredient-{index:04d}"


def _find_fault(context: TrainContext, index: int) -> str:
    """What is wrong with ingredient `index`, which may be missing or damaged; empty if it is there and right.

    Raises: RunError for a sound one of another recipe.
    """
    path = context.run.ingredient(index)
    try:
        with _refuse_foreign(path):
            ingredient_store.read(path, context.origin_of(index))
    except FileError as error:
        return str(error)
    with suppress(OSError):  # what a kill between publishing and this left is of no harm
        context.run.checkpoint(_work(index)).unlink(missing_ok=True)
    return ""


def _share(context: TrainContext, missing: list[int]) -> dict[int, str]:
    """Train what is missing, one lease after the other; wait for what others hold, and take over what they drop.

    Ranks begin at different ingredients, so that they rarely ask for the same lease. What failed is not tried again:
    which did, and why.
    """
    first = context.here.rank % len(missing)
    todo = missing[first:] + missing[:first]
    monitor, failed = LeaseMonitor(), dict[int, str]()
    while todo:
        held_by_others = []
        for index in todo:
            with context.hold(_work(index), monitor) as ours:
                try:
                    if not ours:
                        held_by_others.append(index)
                    elif (fault := _find_fault(context, index)) and (why := _train_one(context, index, fault, ours)):
                        failed[index] = why
                except OvertakenError:
                    holder = leases.describe_holder(context.run.lease(_work(index)))
                    context.log.say(f"train: {_work(index)} was taken over by {holder} while we were away")
                    held_by_others.append(index)
        if held_by_others == todo:
            time.sleep(POLL_SECONDS)
        todo = held_by_others
    return failed


def _train_one(context: TrainContext, index: int, fault: str, lease: Lease) -> str:
    """Train and publish one ingredient; a file in its place, which has a fault, is set aside first.

    Why it cannot be trained, as found now or before by this command; empty once it is there.
    """
    work, title, path, log = _work(index), f"ingredient {index:04d}", context.run.ingredient(index), context.log
    if why := context.board.failed(work):
        return why
    if path.exists():
        log.say(f"train: {fault}; set aside as {files.set_aside(path).name}, and trained again")
    origin, seed = context.origin_of(index), context.job.train.seed
    how, checkpoints = origin.hyperparameters, context.checkpoints(work, title, origin, lease)
    try:
        with context.board.watch(work, title, how.epochs) as bar:
            ingredient = train(context.data, context.start_of(index), how, seed, index, bar, checkpoints)
    except DivergedError as error:
        log.say(f"train: {error}; the others are trained all the same")
        return str(error)
    ingredient_store.write(path, ingredient, origin, context.job, **context.provenance)
    checkpoints.remove()
    log.say(
        f"train: {title} done in {ingredient.measurement['seconds']:.1f} s, validation"
        f" {ingredient.validation_accuracy:.4f} (epoch {ingredient.best_epoch}), {ingredient.stopped}"
    )
    context.board.forget_failure(work)
    return ""
