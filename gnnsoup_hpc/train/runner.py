"""Sharing of the ingredients among ranks and jobs: lease, train, publish, until all are there."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import without_effect
from gnnsoup_hpc.data.prepare import note_job
from gnnsoup_hpc.errors import DivergedError, FileError, ForeignFileError, IngredientsError, RunError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import summary as gathered
from gnnsoup_hpc.memory import limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.leases import Lease, LeaseMonitor
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.checkpointing import OvertakenError
from gnnsoup_hpc.train.context import TrainContext, evaluation_bytes
from gnnsoup_hpc.train.initialization import Initialization
from gnnsoup_hpc.train.loop import train
from gnnsoup_hpc.train.task_board import TaskBoard, remove_leftovers

POLL_SECONDS = 1.0


def train_all(job: Job, here: RankInfo, device: torch.device, log: Log, souping: bool = False) -> None:
    """Return when every ingredient of the job is there, having trained those that no one else did.

    With `souping` to follow, what that needs is asked too before anything is trained.
    Raises: RunError where the run holds ingredients of another recipe; MemoryLimitError where something does not fit;
    IngredientsError where some cannot be trained, once all others are there.
    """
    run = RunDir.of(job)
    with graph_store.open_graph(run.graph, job) as graph:
        model = make_model(job.model, graph.features, graph.classes)
        job = _within_limit(job, run, here, Sizes.of(graph, model, device), log, souping)
        initialization = Initialization.of(TrainContext(job, run, model, graph, here, device, log))
        missing = [index for index in range(job.train.ingredients) if not _is_there(initialization, index)]
        if here.rank == 0:
            note_job(job)
            _say_what_is_left_out(job, run, log)
        if len(missing) < job.train.ingredients:
            there = job.train.ingredients - len(missing)
            log.say(f"train: {there} of {job.train.ingredients} ingredients are there already")
        failed = dict[int, str]()
        if missing:
            _warn_of_idle_ranks(here, len(missing), log)
            _warn_of_copies(job, log)
            failed = _share(initialization, missing)
    if here.rank == 0:
        remove_leftovers(
            run, ["trunk", *(_work(index) for index in range(job.train.ingredients) if index not in failed)]
        )
    if failed:
        raise _failure(failed, job.train.ingredients)
    paths = [run.ingredient(index) for index in range(job.train.ingredients)]
    if missing or gathered.names(run.gathered) != [path.stem for path in paths]:
        gathered.gather(run.gathered, paths, initialization.initial, job)


def _say_what_is_left_out(job: Job, run: RunDir, log: Log) -> None:
    if names := ", ".join(without_effect(job)):
        log.say(f"train: without effect on these ingredients: {names}")
    more = [path.stem for path in run.ingredients.glob("*.h5") if path.stem.isdecimal()]
    more = sorted(name for name in more if int(name) >= job.train.ingredients)
    if more:
        log.say(
            f"train: {', '.join(more)} {'is' if len(more) == 1 else 'are'} there too, and beyond train.ingredients ="
            f" {job.train.ingredients}: not souped"
        )


def _warn_of_copies(job: Job, log: Log) -> None:
    if job.train.ingredients > 1 and not job.train.differ:
        log.say(
            "train: nothing makes the ingredients differ, so all will be equal and no soup can gain: set train.dropout,"
            " train.drop_edges or train.vary, take mini-batches, or name less in train.shared_draws"
        )


def _warn_of_idle_ranks(here: RankInfo, missing: int, log: Log) -> None:
    idle = here.size - missing
    if idle > 0 and here.rank == 0:
        what = "ingredient" if missing == 1 else "ingredients"
        have = "has" if idle == 1 else "have"
        log.say(f"train: {idle} of {here.size} ranks {have} nothing to train: {missing} {what}")


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
    way = "in memory" if full else limits.describe_evaluation(sizes, evaluation_bytes(resolved_job, sizes, limit))
    log.say(f"train: {limits.describe(limit, training, way)}")
    return resolved_job


def _is_there(initialization: Initialization, index: int) -> bool:
    """Whether ingredient `index` is there and right; not, if it is damaged.

    Raises: RunError for a sound one of another recipe: it is somebody's work, and not ours to replace.
    """
    path = initialization.context.run.ingredient(index)
    try:
        ingredient_store.read(path, initialization.origin(index))
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {path} away") from None
    except FileError:
        return False
    with suppress(OSError):  # what a kill between publishing and this left is of no harm
        initialization.context.run.checkpoint(_work(index)).unlink(missing_ok=True)
    return True


def _damage(path: Path) -> str:
    """What is wrong with a file that could not be read."""
    try:
        ingredient_store.read(path)
    except FileError as error:
        return str(error)
    return f"{path} was damaged"


def _share(initialization: Initialization, missing: list[int]) -> dict[int, str]:
    """Train what is missing, one lease after the other; wait for what others hold, and take over what they drop.

    Ranks begin at different ingredients, so that they rarely ask for the same lease. What failed is not tried again:
    which did, and why.
    """
    context = initialization.context
    first = context.here.rank % len(missing)
    todo = missing[first:] + missing[:first]
    board, monitor, failed = context.board, LeaseMonitor(), dict[int, str]()
    while todo:
        held_by_others = []
        for index in todo:
            lease = context.run.lease(_work(index))
            with context.here.stop.later(), leases.hold(lease, launch.describe(context.here), monitor) as ours:
                try:
                    if not ours:
                        held_by_others.append(index)
                    elif not _is_there(initialization, index) and (why := _tried(initialization, board, index, ours)):
                        failed[index] = why
                except OvertakenError:
                    context.log.say(
                        f"train: {_work(index)} was taken over by {leases.describe_holder(lease)} while we were away"
                    )
                    held_by_others.append(index)
        if held_by_others == todo:
            time.sleep(POLL_SECONDS)
        todo = held_by_others
    return failed


def _failure(failed: dict[int, str], ingredients: int) -> IngredientsError:
    names = ", ".join(f"{index:04d}" for index in sorted(failed))
    return IngredientsError(
        f"{len(failed)} of {ingredients} ingredients failed, all others are there: {names}. The first:"
        f" {failed[min(failed)]}. The same command tries them again; `gnnsoup status` says why of each"
    )


def _work(index: int) -> str:
    return f"ingredient-{index:04d}"


def _tried(initialization: Initialization, board: TaskBoard, index: int, lease: Lease) -> str:
    """Why ingredient `index` cannot be trained, as found now or before by this command; empty once it is there."""
    work = _work(index)
    if why := board.failed(work):
        return why
    try:
        _train_one(initialization, index, lease)
    except DivergedError as error:
        initialization.context.log.say(f"train: {error}; the others are trained all the same")
        return str(error)
    board.forget_failure(work)
    return ""


def _train_one(initialization: Initialization, index: int, lease: Lease) -> None:
    """Train and publish one ingredient; a damaged file in its place is set aside first."""
    context = initialization.context
    path, origin = context.run.ingredient(index), initialization.origin(index)
    if path.exists():
        context.log.say(f"train: {_damage(path)}; set aside as {files.set_aside(path).name}, and trained again")
    title, how, seed = f"ingredient {index:04d}", origin.hyperparameters, context.job.train.seed
    checkpoints = context.checkpoints(_work(index), title, origin, lease)
    with context.board.watched(_work(index), title, how.epochs) as bar:
        ingredient = train(context.data, initialization.state(index), how, seed, index, bar, checkpoints)
    ingredient_store.write(path, ingredient, origin, context.job, **context.provenance)
    checkpoints.done()
    context.log.say(
        f"train: ingredient {index:04d} done in {ingredient.measurement['seconds']:.1f} s, validation"
        f" {ingredient.validation_accuracy:.4f} (epoch {ingredient.best_epoch}), {ingredient.stopped}"
    )
