"""Training for a run: its initial state, its trunk, and its ingredients, shared among ranks and jobs by leases.

The runs of a sweep of training are shared all together: no rank waits for one of them while another has work.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import list_jobs, list_joint_runs
from gnnsoup_hpc.config.recipes import RECIPES
from gnnsoup_hpc.config.turns import without_effect
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.data.prepare import lend_graph, note_job
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
from gnnsoup_hpc.runtime.progress import Bar, Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.batches import Batches, ClusterBatches, FullBatches, HostGraph, NeighbourBatches
from gnnsoup_hpc.train.checkpointing import CheckpointManager, OvertakenError, remove
from gnnsoup_hpc.train.loop import TrainData, train
from gnnsoup_hpc.train.task_board import TaskBoard, remove_leftovers
from gnnsoup_hpc.train.trunk import describe_starts, train_starts
from gnnsoup_hpc.types import TRAINED_ROLES, Role, State
from gnnsoup_hpc.utils.out_of_core import BufferPool

POLL_SECONDS = 1.0


@dataclass(eq=False)
class TrainContext:
    """A rank's place at a run; what it trains on is read when it is first asked for, and given back by `release`.

    graph: the run's, or that of the sweep whose run it is. label: begins the names of its works in what is said, in a
    sweep. initial_sha256: hash of what ingredients start from, by way of a trunk where there is one; trunk_sha256: of
    the state that all branch from, where the job asks for one and it is there.
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
    label: str = ""
    initial_sha256: str = ""
    trunk_sha256: str = ""
    opened: ExitStack = field(default_factory=ExitStack)  # files that `data` reads

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
        sizes = Sizes.of(self.graph, self.model, self.device, self.job.train.labels)
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
        role = TRAINED_ROLES[how.labels]
        batches: Batches
        if how.batch == "full":
            view = loader.load_whole(self.graph, role).to(self.device)
            batches = FullBatches(self.graph, view, loader.share_graph(self.graph, view, Role.VALIDATION), plan)
            evaluator.keep(batches.validate)  # it is in memory anyway
        elif how.batch == "cluster":
            exact = how.first_hop == "exact"
            hop = self.opened.enter_context(_open_first_hop(self)) if exact else None
            batches = ClusterBatches(self.graph, how.clusters, plan, device=self.device, hop=hop, role=role)
        else:
            hops, sampler = self.model.hops or 1, resolve_sampler(how.sampler)
            drawn = how.batch_size, how.fanout, hops, sampler, HostGraph(self.graph)
            batches = NeighbourBatches(self.graph, how.clusters, plan, *drawn, device=self.device, role=role)
        return TrainData(self.model, self.engine, batches, evaluator, self.device)

    def release(self) -> None:
        """Give back what it trains on."""
        self.opened.close()
        self.__dict__.pop("data", None)

    def read_initial(self) -> State:
        """The run's initial state, which is there."""
        return ingredient_store.read_initial(self.run.initial, self.model, self.job.train.seed)

    def start_of(self, index: int | None) -> State:
        """What ingredient `index`, or the trunk, is trained from."""
        start = self.job.train.start
        if index is not None and start == "own":
            return ingredient_store.make_own_start(self.model, self.job.train.seed, index)
        if index and start == "snapshots":
            return ingredient_store.read(self.run.ingredient(index - 1)).state
        return ingredient_store.read_trunk(self.run.trunk).state if self.trunk_sha256 else self.read_initial()

    def origin_of(self, index: int | None) -> Origin:
        """What ingredient `index`, or the trunk, is a function of if it is trained here."""
        return replace(self.accepted_of(index), engine=self.engine.name)

    def accepted_of(self, index: int | None) -> Origin:
        """The same as the job has it, which may leave the engine open.

        Raises: FileError where it goes on from an ingredient that is not there.
        """
        previous = ingredient_store.hash_previous(self.job, self.run, index)
        return Origin.of(self.job, self.model, self.graph, self.initial_sha256, index, self.trunk_sha256, previous)

    @property
    def works(self) -> list[Work]:
        """Its ingredients."""
        return [Work(self, index) for index in range(self.job.train.ingredients)]


@dataclass(frozen=True)
class Work:
    """An ingredient of a run by its index, or its trunk as None."""

    context: TrainContext
    index: int | None

    @property
    def name(self) -> str:
        """In names of files."""
        return "trunk" if self.index is None else f"ingredient-{self.index:04d}"

    @property
    def title(self) -> str:
        """In what is said."""
        return self.context.label + self.name.replace("-", " ")

    @property
    def named(self) -> str:
        """The same in the middle of a sentence."""
        return "the trunk" if self.title == "trunk" else self.title

    @property
    def path(self) -> Path:
        """Its file."""
        return self.context.run.trunk if self.index is None else self.context.run.ingredient(self.index)

    @property
    def lease(self) -> Path:
        """The lease on it."""
        return self.context.run.lease(self.name)

    @property
    def previous(self) -> Work | None:
        """The ingredient that it goes on from, if it goes on from one."""
        chained = self.context.job.train.start == "snapshots"
        return Work(self.context, self.index - 1) if self.index and chained else None


def train_all(job: Job, here: RankInfo, device: torch.device, log: Log, souping: bool = False) -> None:
    """Return when every ingredient of the job is there, having trained those that no one else did.

    Of a sweep of training those of all its runs. With `souping` to follow, what that needs is asked too before anything
    is trained.
    Raises: RunError where a run holds an initial state, a trunk or ingredients of another recipe; DivergedError where
    the trunk cannot be trained; MemoryLimitError where something does not fit; IngredientsError where some cannot be
    trained, once all others are there.
    """
    run = RunDir.of(job)
    if rows := imports.read(run.imported):
        imports.check_count(job, run, len(rows))
        log.say(f"train: the {len(rows)} ingredients of {run.root} were imported: nothing is trained")
        return
    joint_runs = list_joint_runs(job)
    if joint_runs and (run.initial.exists() or run.ingredients.exists()):
        raise RunError(
            f"{run.root} has ingredients of a job that does not sweep training: give the job a name of its own (--set"
            " name=…)"
        )
    souped = {each.job.name: joint.count_ingredients() for joint in joint_runs for each in joint.runs}
    with graph_store.open_graph(run.graph, job) as graph, ExitStack() as opened:
        contexts = [_open_context(each, graph, here, device, log, swept=bool(joint_runs)) for each in list_jobs(job)]
        plans = (_plan(each, souped.get(each.job.name, job) if souping else None) for each in contexts)
        for line in dict.fromkeys(filter(None, plans)):
            log.say(line)
        for context in contexts:
            opened.callback(context.release)
            context.initial_sha256 = _load_initial(context)
        failed = _train_trunks(contexts)
        begun = [context for context in contexts if Work(context, None) not in failed]
        missing = _list_missing([work for context in begun for work in context.works])
        if here.rank == 0:
            _note_jobs(job, contexts)
        _describe_work(contexts, missing)
        failed |= _share(missing)
        for context in begun:
            _finish(context, failed, any(work.context is context for work in missing))
    if failed:
        raise _describe_failed(contexts, failed)


def _note_jobs(job: Job, contexts: Sequence[TrainContext]) -> None:
    """Keep the resolved job with each run; of a sweep that too, and its graph with each of its runs."""
    jobs, log = [context.job for context in contexts], contexts[0].log
    for each in jobs:
        note_job(each)
    if job.sweep.trains:
        note_job(job)
        lend_graph(job, jobs, log)
        _describe_former_runs(contexts)


def _describe_failed(contexts: Sequence[TrainContext], failed: Mapping[Work, str]) -> IngredientsError:
    """What could not be trained, and why the first could not."""
    works = [work for context in contexts for work in (Work(context, None), *context.works)]
    lost = [work for work in works if work in failed]
    count = sum(len(work.context.works) if work.index is None else 1 for work in lost)
    names = ", ".join(work.context.label + work.name.removeprefix("ingredient-") for work in lost)
    or_after = " or go on from one that did" if any(work.previous in failed for work in lost) else ""
    return IngredientsError(
        f"{count} of {sum(len(context.works) for context in contexts)} ingredients failed{or_after}, all others are"
        f" there: {names}. The first: {failed[lost[0]]}. The same command tries them again; `gnnsoup status` says why"
        " of each"
    )


def _open_context(
    job: Job, graph: GraphFile, here: RankInfo, device: torch.device, log: Log, swept: bool
) -> TrainContext:
    """A rank's place at the run of a job. swept: it is one of several."""
    run = RunDir.of(job)
    model = make_model_for(graph, job.model, graph.resolve_task(job.task).outputs)
    engine = _find_engine(job, run, model, device)
    if not _is_trained(job, run):
        _check_precision(job, engine, device)
        _check_sampling(job, model)
    label = f"{job.name}/" if swept else ""
    return TrainContext(job, run, model, engine, graph, here, device, log, TaskBoard(run, here, log), label)


def _finish(context: TrainContext, failed: Container[Work], trained: bool) -> None:
    """What is left to do for a run once its ingredients are there, or have failed."""
    run, works = context.run, context.works
    done = [work for work in works if work not in failed]
    if context.here.rank == 0:
        remove_leftovers(run, ["trunk", run.trunk_starts.stem, *(work.name for work in done)])
    if done == works and (trained or gathered.names(run.gathered) != [work.path.stem for work in works]):
        gathered.gather(run.gathered, [work.path for work in works], context.read_initial(), context.job)


def check_machine(job: Job, device: torch.device) -> None:
    """Refuse what the job asks of training and this machine has not, where anything is left to be trained.

    Raises: JobError or LauncherError, naming it.
    """
    for each in list_jobs(job):
        if not _is_trained(each, RunDir.of(each)):
            check_model(each.model)
            weighted, edge_attr = each.graph.edge_weight == "use", each.graph.edge_attr == "use"
            model = make_model(each.model, 1, 2, None, weighted, int(edge_attr))  # its kind is what matters
            engine = find_engine(each.train.engine, model, device)
            _check_precision(each, engine, device)
            if each.train.batch == "neighbour":
                resolve_sampler(each.train.sampler)


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


def _plan(context: TrainContext, souped: Job | None) -> str:
    """Choose train.clusters, and refuse what does not fit, if anything is left to be trained; a line on that.

    souped: the job whose soups follow, which must fit too.
    """
    run, device = context.run, context.device
    job = ingredient_store.resolve_job(context.job, run)
    sizes = Sizes.of(context.graph, context.model, device, job.train.labels)
    limit = Limit.of(job, context.here, device)
    context.job, training = limits.plan_training(job, sizes, limit, context.engine)
    souping = limits.plan_souping(souped, sizes, limit, context.here.size)[1] if souped else []
    if _is_trained(job, run):
        limits.refuse(limit, souping)
        return ""
    limits.refuse(limit, [*training, *souping])
    memory = _evaluation_bytes(context.job, sizes, limit)
    full = job.train.batch == "full"
    way = "in memory" if full else limits.describe_evaluation(sizes, memory, there=limit.gpu)
    return f"train: {limits.describe(limit, training, way)}; {context.engine.name} engine on {device}"


def _evaluation_bytes(job: Job, sizes: Sizes, limit: Limit) -> int:
    """What the limit leaves for exact accuracies beside what mini-batches hold."""
    return max(0, limit.room - (estimate.neighbour_store(sizes) if job.train.batch == "neighbour" else 0))


def _describe_work(contexts: Sequence[TrainContext], works: Sequence[Work]) -> None:
    """Say what is there, what the jobs set in vain, and what is odd about them. works: those that are missing."""
    known = set(works)
    missing, at_once = len(works), sum(work.previous not in known for work in works)
    here, log, count = contexts[0].here, contexts[0].log, sum(len(context.works) for context in contexts)
    if here.rank == 0:
        unused = (", ".join(without_effect(context.job)) for context in contexts)
        for names in dict.fromkeys(filter(None, unused)):
            log.say(f"train: without effect on these ingredients: {names}")
        for name in dict.fromkeys(filter(None, (context.job.train.recipe for context in contexts))):
            log.say(f"train: recipe {name!r}: {RECIPES[name].about}")
        for context in contexts:
            _describe_more(context)
    if missing < count:
        log.say(f"train: {count - missing} of {count} ingredients are there already")
    idle = here.size - at_once
    if missing and idle > 0 and here.rank == 0:
        have, what = "has" if idle == 1 else "have", "ingredient" if missing == 1 else "ingredients"
        turns = "" if at_once == missing else ', each from the one before it (train.start = "snapshots")'
        log.say(f"train: {idle} of {here.size} ranks {have} nothing to train: {missing} {what}{turns}")
    if missing and any(len(context.works) > 1 and not context.job.train.differ for context in contexts):
        log.say(
            "train: nothing makes the ingredients differ, so all will be equal and no soup can gain: set train.dropout,"
            " train.drop_edges, train.bag or train.vary, take mini-batches, or name less in train.shared_draws"
        )


def _describe_former_runs(contexts: Sequence[TrainContext]) -> None:
    """Say which runs lie beside those of a sweep: values may have been taken out of the job."""
    runs, folder = {context.run.root for context in contexts}, contexts[0].run.root.parent
    if more := sorted(path.name for path in folder.iterdir() if path not in runs and path.name[0] != "."):
        are = "is" if len(more) == 1 else "are"
        contexts[0].log.say(f"train: {', '.join(more)} {are} in {folder} too, and not of this sweep: not souped")


def _describe_more(context: TrainContext) -> None:
    """Say what a run has beyond the ingredients of its job."""
    count = len(context.works)
    there = [path.stem for path in context.run.ingredients.glob("*.h5") if path.stem.isdecimal()]
    if more := sorted(context.label + name for name in there if int(name) >= count):
        are = "is" if len(more) == 1 else "are"
        context.log.say(f"train: {', '.join(more)} {are} there too, and beyond train.ingredients = {count}: not souped")


# ---- what ingredients start from


def _load_initial(context: TrainContext) -> str:
    """Hash of the run's initial state; whoever comes first saves it, and all read what is saved.

    It is a function of the job, so two that come first together replace equals by equals, and a damaged one is made
    again.
    """
    path, model, seed = context.run.initial, context.model, context.job.train.seed
    read = partial(ingredient_store.read_initial, architecture=model, seed=seed)
    if (kept := files.read_kept(path, read, context.log, "train")) is None:
        ingredient_store.write_initial(path, model.init_state(seed), model, context.job)
        kept = read(path)
    return states.sha256(kept)


def _train_trunks(contexts: Sequence[TrainContext]) -> dict[Work, str]:
    """The trunks of those runs that have one: one rank trains each under a lease; a damaged one is made again.

    Which cannot be trained, and why; of a run alone that is an error.
    Raises: RunError for a sound one of another recipe; DivergedError.
    """
    works = [Work(context, None) for context in contexts if context.job.train.trunk_epochs]
    failed = _share([work for work in works if _find_fault(work)])
    if failed and len(contexts) == 1:
        raise DivergedError(failed[works[0]])
    for work in works:
        if work not in failed:
            hashes = ingredient_store.hash_branch(work.path, work.context.initial_sha256)
            work.context.initial_sha256, work.context.trunk_sha256 = hashes
    return failed


def _open_first_hop(context: TrainContext) -> AbstractContextManager[FirstAggregationFile]:
    """The whole graph's first sums: one rank makes the file where it is not there, under a lease, others wait."""
    run, graph, model = RunDir(context.graph.path.parent), context.graph, context.model
    log, monitor = context.log, LeaseMonitor()
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


# ---- works


def _list_missing(works: Sequence[Work]) -> list[Work]:
    """Those that have a fault, and those after one of a chain that has: what they go on from is not known yet.

    works: of each run in their order. Raises: RunError.
    """
    found, faulty = list[Work](), set[Work]()
    for work in works:
        if work.previous in faulty or _find_fault(work):
            found.append(work)
            faulty.add(work)
    return found


def _find_fault(work: Work) -> str:
    """What is wrong with the file of a work, which may be missing or damaged; empty if it is there and right.

    Raises: RunError for a sound one of another recipe: it is somebody's work, and not ours to replace. FileError where
    it goes on from an ingredient that is not there.
    """
    path, accepted = work.path, work.context.accepted_of(work.index)
    read = ingredient_store.read_trunk if work.index is None else ingredient_store.read
    try:
        read(path, accepted)
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {path} away") from None
    except FileError as error:
        return str(error)
    return ""


def _share(works: Sequence[Work]) -> dict[Work, str]:
    """Train what is missing, one lease after the other; wait for what others hold, and take over what they drop.

    Ranks begin at different works, so that they rarely ask for the same lease. One that goes on from another has its
    turn once that is there. What failed is not tried again: which did, and why. What one run trains on is given back
    before another's is read.
    """
    if not works:
        return {}
    here, log, monitor = works[0].context.here, works[0].context.log, LeaseMonitor()
    first, failed, waiting = here.rank * len(works) // here.size, dict[Work, str](), False
    todo, last = [*works[first:], *works[:first]], works[first].context
    while todo:
        left = set(todo)
        for work in todo:
            before = work.previous
            if before in left:
                continue
            if before is not None and before in failed:
                failed[work] = f"it goes on from {before.title}, which failed"
                left.remove(work)
                continue
            if work.context is not last:
                last.release()
                last = work.context
            if _settle(work, monitor, failed):
                left.remove(work)
        if len(left) == len(todo):
            waiting = waiting or _describe_waiting(todo, log)
            time.sleep(POLL_SECONDS)
        todo = [work for work in todo if work in left]
    return failed


def _describe_waiting(todo: Sequence[Work], log: Log) -> bool:
    """Say whose work all others wait for, a trunk or an ingredient that others go on from; whether there is such."""
    left, awaited = set(todo), {work.previous for work in todo}
    held = next((work for work in todo if work.index is None or (work in awaited and work.previous not in left)), None)
    if held is not None:
        log.say(f"train: waiting for {leases.describe_holder(held.lease)}, who trains {held.named}")
    return held is not None


def _settle(work: Work, monitor: LeaseMonitor, failed: dict[Work, str]) -> bool:
    """Whether a work is there, or has `failed`, by now; not, where somebody else is at it."""
    context = work.context
    try:
        # Signals to stop come once the lease is given up.
        with context.here.stop.later(), leases.hold(work.lease, launch.describe(context.here), monitor) as ours:
            if ours and (fault := _find_fault(work)) and (why := _train_one(work, fault, ours)):
                failed[work] = why
            return ours is not None
    except OvertakenError:
        holder = leases.describe_holder(work.lease)
        context.log.say(f"train: {context.label}{work.name} was taken over by {holder} while we were away")
        return False


@contextmanager
def _watch(work: Work, epochs: int, part: str = "") -> Iterator[Bar]:
    """A block in which a work, or a part of it, is trained, and of which the board tells. Raises: DeviceMemoryError."""
    board, explain = work.context.board, explain_out_of_memory(f"train: {work.named}{part}")
    with board.watch(work.name, f"{work.title}{part}", epochs) as bar, explain:
        yield bar


def _train_one(work: Work, fault: str, lease: Lease) -> str:
    """Train and publish one work; an ingredient's file, which has a fault, is set aside first.

    Why it cannot be trained, as found now or before by this command; empty once it is there.
    """
    context, index, path = work.context, work.index, work.path
    job, board, log = context.job, context.board, context.log
    if why := board.failed(work.name):
        return why
    if path.exists():
        then = "made again" if index is None else f"set aside as {files.set_aside(path).name}, and trained again"
        log.say(f"train: {fault}; {then}")
    origin, provenance = context.origin_of(index), context.provenance
    how, start, seed = origin.hyperparameters, context.start_of(index), job.train.seed
    own = context.run.checkpoint(work.name)
    checkpoints = CheckpointManager(own, work.named, origin, job, lease, log, provenance)
    made: Trunk | Ingredient
    try:
        if index is None:
            watch = partial(_watch, work, how.epochs)
            made = train_starts(context.data, start, checkpoints, context.run.trunk_starts, watch)
        else:
            with _watch(work, how.epochs) as bar:
                made = train(context.data, start, how, seed, index, bar, checkpoints)
    except DivergedError as error:
        if index is not None or context.label:
            ends = job.train.start == "snapshots" and index is not None and index + 1 < job.train.ingredients
            then = "those after it cannot be trained" if ends else "the others are trained all the same"
            log.say(f"train: {context.label}{error}; {then}")
        return str(error)
    if isinstance(made, Trunk):
        ingredient_store.write_trunk(path, made, origin, job, **provenance)
        remove(context.run.trunk_starts)
        last = made.history[-1].validation_accuracy
        reached = f"{len(made.history)} epochs, validation {last:.4f} between epochs{describe_starts(made)}"
    else:
        ingredient_store.write(path, made, origin, job, **provenance)
        reached = f"validation {made.validation_accuracy:.4f} (epoch {made.best_epoch}), {made.stopped}"
    checkpoints.forget()
    board.forget_failure(work.name)
    log.say(f"train: {work.title} done in {made.measurement['seconds']:.1f} s, {reached}")
    return ""
