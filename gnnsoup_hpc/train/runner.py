"""Training for a run: its initial state, its trunk, and its ingredients, shared among ranks and jobs by leases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import without_effect
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.data.prepare import note_job
from gnnsoup_hpc.engine import Engine, choose_engine, find_engine
from gnnsoup_hpc.engine.out_of_core.first_aggregation import open_first_aggregation
from gnnsoup_hpc.errors import DivergedError, FileError, ForeignFileError, IngredientsError, JobError, RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.sampling import resolve_sampler
from gnnsoup_hpc.io import files, imports, states
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import summary as gathered
from gnnsoup_hpc.io.first_aggregation import FirstAggregationFile
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.records import Ingredient, Trunk
from gnnsoup_hpc.memory import estimate, limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.base import LayeredModel, Model
from gnnsoup_hpc.models.registry import check_model, make_model, make_model_for
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.gpu import explain_out_of_memory
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
from gnnsoup_hpc.utils.out_of_core import BufferPool

POLL_SECONDS = 1.0


@dataclass
class TrainContext:
    """A rank's place at a run; what it trains on is read when it is first asked for.

    initial: what ingredients start from; trunk: the state that all branch from, where the job asks for one.
    """

    job: Job
    run: RunDir
    model: Model
    engine: Engine
    graph: GraphFile
    here: RankInfo
    device: torch.device
    log: Log
    board: TaskBoard
    initial: State = field(default_factory=dict)
    trunk: State | None = None
    opened: ExitStack = field(default_factory=ExitStack)  # files, closed once all is trained

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
        self.engine.warm_up(self.model)
        sizes = Sizes.of(self.graph, self.model, self.device)
        limit = Limit.of(self.job, self.here, self.device)
        memory = _evaluation_bytes(self.job, sizes, limit)
        settings = EvalSettings(self.device, memory, self.run.root, gpu=limit.gpu, task=self.job.task)
        evaluator = Evaluator(self.graph, self.model, settings)
        how = self.job.train
        plan = partial(
            self.engine.plan,
            self.model,
            train=True,
            device=self.device,
            precision=how.precision,
            workspace=BufferPool(),
        )
        where = self.graph, how.clusters, plan
        batches: Batches
        if how.batch == "full":
            view = loader.load_whole(self.graph, Role.TRAIN).to(self.device)
            batches = FullBatches(view, loader.share_graph(self.graph, view, Role.VALIDATION), plan)
            evaluator.keep(batches.validate)  # it is in memory anyway
        elif how.batch == "cluster":
            exact = how.first_hop == "exact"
            hop = self.opened.enter_context(_open_first_hop(self)) if exact else None
            batches = ClusterBatches(*where, device=self.device, hop=hop)
        else:
            hops, sampler = self.model.hops or 1, resolve_sampler(how.sampler)
            batches = NeighbourBatches(*where, how.batch_size, how.fanout, hops, sampler, device=self.device)
        return TrainData(self.model, self.engine, batches, evaluator, self.device)

    def start_of(self, index: int | None) -> State:
        """What ingredient `index`, or the trunk, is trained from."""
        if index is not None and self.job.train.start == "own":
            return ingredient_store.make_own_start(self.model, self.job.train.seed, index)
        return self.initial if self.trunk is None else self.trunk

    def origin_of(self, index: int | None) -> Origin:
        """What ingredient `index`, or the trunk, is a function of if it is trained here."""
        return replace(self.accepted_of(index), engine=self.engine.name)

    def accepted_of(self, index: int | None) -> Origin:
        """The same as the job has it, which may leave the engine open."""
        trunk = "" if self.trunk is None else states.sha256(self.trunk)
        return Origin.of(self.job, self.model, self.graph, states.sha256(self.initial), index, trunk)


def train_all(job: Job, here: RankInfo, device: torch.device, log: Log, souping: bool = False) -> None:
    """Return when every ingredient of the job is there, having trained those that no one else did.

    With `souping` to follow, what that needs is asked too before anything is trained.
    Raises: RunError where the run holds an initial state, a trunk or ingredients of another recipe; DivergedError where
    the trunk cannot be trained; MemoryLimitError where something does not fit; IngredientsError where some cannot be
    trained, once all others are there.
    """
    run, everyone = RunDir.of(job), range(job.train.ingredients)
    if rows := imports.read(run.imported):
        imports.check_count(job, run, len(rows))
        log.say(f"train: the {len(rows)} ingredients of {run.root} were imported: nothing is trained")
        return
    with graph_store.open_graph(run.graph, job) as graph, ExitStack() as opened:
        model = make_model_for(graph, job.model, graph.resolve_task(job.task).outputs)
        engine = _find_engine(job, run, model, device)
        if not _is_trained(job, run):
            _check_precision(job, engine, device)
            _check_sampling(job, model)
        job = _within_limit(job, run, here, Sizes.of(graph, model, device), engine, log, souping)
        board = TaskBoard(run, here, log)
        context = TrainContext(job, run, model, engine, graph, here, device, log, board, opened=opened)
        context.initial = _load_initial(context)
        context.trunk = _load_trunk(context) if job.train.trunk_epochs else None
        missing = [index for index in everyone if _find_fault(context, index)]
        if here.rank == 0:
            note_job(job)
        _describe_work(context, len(missing))
        failed = _share(context, missing) if missing else {}
    if here.rank == 0:
        remove_leftovers(run, {"trunk", *map(_work, everyone)} - failed.keys())
    if failed:
        names = ", ".join(work.removeprefix("ingredient-") for work in sorted(failed))
        raise IngredientsError(
            f"{len(failed)} of {len(everyone)} ingredients failed, all others are there: {names}. The first:"
            f" {failed[min(failed)]}. The same command tries them again; `gnnsoup status` says why of each"
        )
    paths = [run.ingredient(index) for index in everyone]
    if missing or gathered.names(run.gathered) != [path.stem for path in paths]:
        gathered.gather(run.gathered, paths, context.initial, job)


def check_machine(job: Job, device: torch.device) -> None:
    """Refuse what the job asks of training and this machine has not, where anything is left to be trained.

    Raises: JobError or LauncherError, naming it.
    """
    if not _is_trained(job, RunDir.of(job)):
        check_model(job.model)
        weighted, edge_attr = job.graph.edge_weight == "use", job.graph.edge_attr == "use"
        model = make_model(job.model, 1, 2, None, weighted, int(edge_attr))  # its kind is what matters
        engine = find_engine(job.train.engine, model, device)
        _check_precision(job, engine, device)
        if job.train.batch == "neighbour":
            resolve_sampler(job.train.sampler)


def _find_engine(job: Job, run: RunDir, model: Model, device: torch.device) -> Engine:
    """What trains; where nothing is left to be trained, any that this machine has.

    Raises: RunError where the run was begun by an engine that does not compute here, JobError where the job asks for
    one that does not.
    """
    name = ingredient_store.find_engine_name(job, run)
    try:
        return find_engine(name, model, device)
    except JobError as error:
        if job.train.engine != "auto":
            raise
        if _is_trained(job, run):
            return choose_engine(model, device)
        other = "cpu" if device.type == "cuda" else "cuda"
        raise RunError(
            f"{run.root} was begun by the engine {name!r}, which its other ingredients need too ({error}): set"
            f" machine.device = {other!r} on a machine that has it, or give the job a name of its own (--set name=…)"
        ) from None


def _check_precision(job: Job, engine: Engine, device: torch.device) -> None:
    """Raises: JobError, or LauncherError, where the job's precision is not to be had."""
    precision = job.train.precision
    if precision != "float32" and device.type == "cpu" and engine.name == "torch":
        raise JobError(
            f"train.precision = {precision!r}: the engine 'torch' trains in float32 on a CPU; use 'float32', or a model"
            " and a train.engine that compiled kernels are for"
        )
    launch.check_precision("train", precision, device)


def _check_sampling(job: Job, model: Model) -> None:
    """Raises: JobError where samples of neighbourhoods are not all that an output depends on, or groups do not fit."""
    model.groups("layer")
    if job.train.batch == "neighbour" and not isinstance(model, LayeredModel) and (why := model.find_far_reach()):
        raise JobError(f"train.batch = 'neighbour' samples a hop a layer, and {why}; use 'cluster' or 'full'")


def _is_trained(job: Job, run: RunDir) -> bool:
    """Whether the files of all that the job trains are there."""
    there = all(run.ingredient(index).exists() for index in range(job.train.ingredients))
    return there and (run.trunk.exists() or not job.train.trunk_epochs)


def _within_limit(job: Job, run: RunDir, here: RankInfo, sizes: Sizes, engine: Engine, log: Log, souping: bool) -> Job:
    """The job with train.clusters chosen; said and refused only where something is left to be trained or souped."""
    limit, job = Limit.of(job, here, sizes.device), ingredient_store.resolve_job(job, run)
    resolved_job, training = limits.plan_training(job, sizes, limit, engine)
    souped = limits.plan_souping(job, sizes, limit, here.size)[1] if souping else []
    if _is_trained(job, run):
        limits.refuse(limit, souped)
        return resolved_job
    limits.refuse(limit, [*training, *souped])
    full = job.train.batch == "full"
    way = (
        "in memory"
        if full
        else limits.describe_evaluation(sizes, _evaluation_bytes(resolved_job, sizes, limit), there=limit.gpu)
    )
    log.say(f"train: {limits.describe(limit, training, way)}; {engine.name} engine on {sizes.device}")
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


# ---- what ingredients start from


def _load_initial(context: TrainContext) -> State:
    """The run's initial state; whoever comes first saves it, and all read what is saved.

    It is a function of the job, so two that come first together replace equals by equals, and a damaged one is made
    again.
    """
    path, model, seed = context.run.initial, context.model, context.job.train.seed
    read = partial(ingredient_store.read_initial, architecture=model, seed=seed)
    if (kept := files.read_kept(path, read, context.log, "train")) is not None:
        return kept
    ingredient_store.write_initial(path, model.init_state(seed), model, context.job)
    return read(path)


def _load_trunk(context: TrainContext) -> State:
    """The run's trunk: one rank trains it under a lease while the others wait; a damaged one is made again.

    Raises: RunError for a sound one of another recipe; DivergedError where it cannot be trained.
    """
    if _find_fault(context, None) and (failed := _share(context, [None])):
        raise DivergedError(failed["trunk"])
    return ingredient_store.read_trunk(context.run.trunk).state


def _open_first_hop(context: TrainContext) -> AbstractContextManager[FirstAggregationFile]:
    """The whole graph's first sums: one rank makes the file where it is not there, under a lease, others wait."""
    run, graph, model, log, monitor = context.run, context.graph, context.model, context.log, LeaseMonitor()
    if not isinstance(model, LayeredModel) or model.aggregation is None:
        raise ValueError(f"a model of kind {model.kind!r} has no first aggregation")
    path, memory = run.first_hop(model.aggregation.name), Limit.of(context.job, context.here).room
    found = partial(
        open_first_aggregation, graph, model.aggregation, path, lambda line: log.say(f"train: {line}"), memory
    )
    while True:
        with leases.hold(run.lease("first-hop"), launch.describe(context.here), monitor) as ours:
            if ours:
                with found():
                    pass
                return found()
        time.sleep(POLL_SECONDS)


# ---- works: ingredients by their index, and the trunk as None


def _work(index: int | None) -> str:
    return "trunk" if index is None else f"ingredient-{index:04d}"


def _path(context: TrainContext, index: int | None) -> Path:
    return context.run.trunk if index is None else context.run.ingredient(index)


def _find_fault(context: TrainContext, index: int | None) -> str:
    """What is wrong with the file of a work, which may be missing or damaged; empty if it is there and right.

    Raises: RunError for a sound one of another recipe: it is somebody's work, and not ours to replace.
    """
    path = _path(context, index)
    read = ingredient_store.read_trunk if index is None else ingredient_store.read
    try:
        read(path, context.accepted_of(index))
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {path} away") from None
    except FileError as error:
        return str(error)
    return ""


def _share(context: TrainContext, works: Sequence[int | None]) -> dict[str, str]:
    """Train what is missing, one lease after the other; wait for what others hold, and take over what they drop.

    Ranks begin at different works, so that they rarely ask for the same lease. What failed is not tried again: which
    did, and why.
    """
    first = context.here.rank % len(works)
    todo, monitor, failed, waiting = [*works[first:], *works[:first]], LeaseMonitor(), dict[str, str](), False
    while todo:
        held_by_others = []
        for index in todo:
            work = _work(index)
            lease = context.run.lease(work)
            try:
                # Signals to stop come once the lease is given up.
                with context.here.stop.later(), leases.hold(lease, launch.describe(context.here), monitor) as ours:
                    if not ours:
                        held_by_others.append(index)
                    elif (fault := _find_fault(context, index)) and (why := _train_one(context, index, fault, ours)):
                        failed[work] = why
            except OvertakenError:
                context.log.say(f"train: {work} was taken over by {leases.describe_holder(lease)} while we were away")
                held_by_others.append(index)
        if held_by_others == todo:
            if todo == [None] and not waiting:
                context.log.say(f"train: waiting for {leases.describe_holder(lease)}, who trains the trunk")
                waiting = True
            time.sleep(POLL_SECONDS)
        todo = held_by_others
    return failed


def _train_one(context: TrainContext, index: int | None, fault: str, lease: Lease) -> str:
    """Train and publish one work; an ingredient's file, which has a fault, is set aside first.

    Why it cannot be trained, as found now or before by this command; empty once it is there.
    """
    job, board, log, work, path = context.job, context.board, context.log, _work(index), _path(context, index)
    if why := board.failed(work):
        return why
    if path.exists():
        then = "made again" if index is None else f"set aside as {files.set_aside(path).name}, and trained again"
        log.say(f"train: {fault}; {then}")
    origin, title, provenance = context.origin_of(index), work.replace("-", " "), context.provenance
    how, start, seed = origin.hyperparameters, context.start_of(index), job.train.seed
    named = "the trunk" if index is None else title
    checkpoints = CheckpointManager(context.run.checkpoint(work), named, origin, job, lease, log, provenance)
    made: Trunk | Ingredient
    try:
        with board.watch(work, title, how.epochs) as bar, explain_out_of_memory(f"train: {named}"):
            if index is None:
                made = train_trunk(context.data, start, how, seed, bar, checkpoints)
            else:
                made = train(context.data, start, how, seed, index, bar, checkpoints)
    except DivergedError as error:
        if index is not None:
            log.say(f"train: {error}; the others are trained all the same")
        return str(error)
    if isinstance(made, Trunk):
        ingredient_store.write_trunk(path, made, origin, job, **provenance)
        last = made.history[-1].validation_accuracy
        reached = f"{len(made.history)} epochs, validation {last:.4f} between epochs"
    else:
        ingredient_store.write(path, made, origin, job, **provenance)
        reached = f"validation {made.validation_accuracy:.4f} (epoch {made.best_epoch}), {made.stopped}"
    with suppress(OSError):  # it is of no use any more, nor of harm
        checkpoints.path.unlink(missing_ok=True)
    board.forget_failure(work)
    log.say(f"train: {title} done in {made.measurement['seconds']:.1f} s, {reached}")
    return ""
