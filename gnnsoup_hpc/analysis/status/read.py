"""How a run stands, read from its files: what is finished, running or missing, and when training will end."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from gnnsoup_hpc.config import Job, expand_grids
from gnnsoup_hpc.config.grid import expand_grid, list_joint_runs
from gnnsoup_hpc.config.turns import hyperparameters
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.io import imports, summary
from gnnsoup_hpc.io.summary import GraphSummary
from gnnsoup_hpc.runtime import leases, processes, status_files
from gnnsoup_hpc.runtime.run_dir import RunDir

State = Literal["finished", "running", "silent", "failed", "damaged", "waiting"]


@dataclass(frozen=True)
class TaskStatus:
    """One ingredient, the trunk, or the graph; None and "" where something is not known.

    title: what a trial of a sweep is, or which start of the trunk; checkpoint: there is one to go on from, and nobody
    does now; after: the ingredient that it goes on from.

    seconds: wall time of what is finished; epoch_seconds: of the last epoch; heartbeat_seconds: since its lease was
    renewed; since, failed_at: seconds since 1970.
    """

    work: str
    state: State
    host: str = ""
    rank: int | None = None
    pid: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    validation: float | None = None
    seconds: float | None = None
    epoch_seconds: float | None = None
    heartbeat_seconds: float | None = None
    since: float | None = None
    why: str = ""
    failed_at: float | None = None
    tries: int = 0
    checkpoint: bool = False
    title: str = ""
    after: str = ""


@dataclass(frozen=True)
class TaskReader:
    """Reads how a run's tasks stand. It takes no lease, and a file may vanish meanwhile.

    ahead: seconds that the clock of the leases' file system is ahead of ours; None where it cannot be asked.
    """

    run: RunDir
    ahead: float | None
    leased: frozenset[str]  # names of files, listed once: a run may have a thousand ingredients
    failures: frozenset[str]
    checkpoints: frozenset[str]

    @classmethod
    def of(cls, run: RunDir) -> TaskReader:
        """The reader of a run; names of files are listed now, and what killed readers have left is removed."""
        folder = run.lease("any").parent
        processes.remove_leftovers(folder)
        checkpoints = list_names(run.checkpoint("any").parent)
        return cls(run, _compare_clocks(folder), list_names(folder), list_names(run.failures), checkpoints)

    @property
    def now(self) -> float:
        """Seconds since 1970, on the leases' clock."""
        return time.time() + (self.ahead or 0.0)

    def read_ingredient(self, index: int, there: frozenset[str], epochs: int | None) -> TaskStatus:
        """Ingredient `index`; `there`: names of files of ingredients; `epochs`: that it is trained for, if it is."""
        path, work, damage = self.run.ingredient(index), f"ingredient-{index:04d}", ""
        if path.name in there:
            try:
                seen = summary.model(path, "ingredient")
                found = TaskStatus(work, "finished", seen.host, seen.rank, epochs=epochs, seconds=seen.seconds)
                return replace(found, validation=seen.validation_accuracy)
            except FileError as error:
                damage = str(error)
        return self.read_unfinished(work, epochs, damage)

    def read_unfinished(self, work: str, epochs: int | None, damage: str = "") -> TaskStatus:
        """Something that is not there, or damaged."""
        lease, failure = self.run.lease(work), self.run.failure(work)
        if lease.name in self.leased and (held := self.read_lease(lease, work, epochs)):
            return held
        checkpoint, done = self.run.checkpoint(work), None
        if there := checkpoint.name in self.checkpoints:
            with suppress(FileError):  # it may just have gone, or whoever goes on will see to it
                done = summary.epochs_done(checkpoint)
        task = TaskStatus(work, "waiting", epoch=done, epochs=epochs, checkpoint=there)
        if damage:
            return replace(task, state="damaged", why=damage)
        note = status_files.read(failure) if failure.name in self.failures else {}
        place = {key: note[key] for key in (*_PLACE, "title") if key in note}
        return replace(task, state="failed", **place, **_describe_failure(note)) if note else task

    def read_trials(self) -> tuple[TaskStatus, ...]:
        """Trials of sweeps that somebody is at, or that failed."""
        known = {name.rpartition(".")[0] for name in (*self.leased, *self.failures) if name.startswith("cell-")}
        tasks = (self.read_unfinished(work, 0) for work in sorted(known))
        return tuple(task for task in tasks if task.state != "waiting")

    def read_lease(self, lease: Path, work: str, epochs: int | None = None) -> TaskStatus | None:
        """Who holds a lease, and how far the work is; None where nobody holds it any more."""
        holder, renewed = status_files.read(lease), _read_mtime(lease)
        if renewed is None:
            return None
        age = max(0.0, self.now - renewed)
        note = status_files.read(self.run.progress(work))
        if any(note.get(key) != holder.get(key) for key in ("host", "pid")):
            note = {}  # of a former holder
        known = {key: values[key] for key in _PROGRESS for values in (holder, note) if key in values}
        known |= _describe_failure(status_files.read(self.run.failure(work)))
        try:
            over = leases.is_expired(lease)
        except OSError:  # nothing can be written beside it, so its age alone is known
            over = age > leases.EXPIRE_SECONDS
        state: State = "silent" if over else "running"
        return TaskStatus(work, state, **{"epochs": epochs, "heartbeat_seconds": age} | known)


_PLACE = ("host", "rank", "pid")
_PROGRESS = (*_PLACE, "title", "since", "epoch", "epochs", "loss", "validation", "epoch_seconds")


def _describe_failure(note: dict[str, Any]) -> dict[str, Any]:
    return {"why": note["why"], "failed_at": note.get("when"), "tries": note.get("times", 1)} if "why" in note else {}


def _compare_clocks(folder: Path) -> float | None:
    try:
        return leases.read_clock(folder / "status") - time.time()
    except OSError:
        return None


def _read_mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def list_names(folder: Path) -> frozenset[str]:
    """Names of a folder's files; none where there is no such folder."""
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()


@dataclass(frozen=True)
class Estimate:
    """seconds: until the last ingredient is there; None where that is not known, and `why`."""

    seconds: float | None
    why: str


def estimate_end(ingredients: Sequence[TaskStatus], trunk: TaskStatus | None) -> Estimate:
    """Those that wait go to whichever running worker is free first, a chain to one; what failed is left out.

    An epoch takes what it takes running ones now, else what it took finished ones.
    """
    left = [task for task in ingredients if task.state in ("waiting", "silent", "damaged")]
    running = [task for task in ingredients if task.state == "running"]
    if not left and not running:
        failed = any(task.state == "failed" for task in ingredients)
        return Estimate(0.0, "nothing is left but what failed" if failed else "all ingredients are there")
    if trunk is not None and trunk.state != "finished":
        return Estimate(None, "the trunk is not there yet, and how many ranks wait for it cannot be seen")
    if not running:
        return Estimate(None, "no rank works at this run now")
    now = [task.epoch_seconds for task in running if task.epoch_seconds is not None]
    before = [p.seconds / p.epochs for p in ingredients if p.state == "finished" and p.seconds and p.epochs]
    if not (now or before):
        return Estimate(None, "no epoch is done yet")
    epoch = median(now or before)
    free = []
    for task in (chains := _join_chains([*running, *left])):
        if task.state == "running":
            own = epoch if task.epoch_seconds is None else task.epoch_seconds
            free.append(own * _count_epochs_left(task))
    heapq.heapify(free)
    for task in chains:
        if task.state != "running":
            heapq.heappush(free, heapq.heappop(free) + epoch * _count_epochs_left(task))
    return Estimate(max(free), f"{len(running)} at work, {len(left)} to come, {epoch:.3g} s an epoch")


def _count_epochs_left(task: TaskStatus) -> int:
    return max(0, (task.epochs or 0) - (task.epoch or 0))


def _join_chains(tasks: Sequence[TaskStatus]) -> list[TaskStatus]:
    """Unfinished ingredients that go on from one another as one task, with the epochs of all, at the first's place."""
    joined, places = list[TaskStatus](), dict[str, int]()
    for task in tasks:
        place = places.get(task.after, len(joined)) if task.after else len(joined)
        if place < len(joined):
            first = joined[place]
            joined[place] = replace(first, epochs=(first.epochs or 0) + _count_epochs_left(task))
        else:
            joined.append(task)
        places[task.work] = place
    return joined


@dataclass(frozen=True)
class SoupStatus:
    """One method's soup. why: what is wrong with a file that is there; numbers are None where there is none.

    combinations: of a sweep's values, 0 without one.
    """

    method: str
    made: bool
    validation: float | None = None
    test: float | None = None
    seconds: float | None = None
    created: str = ""
    why: str = ""
    metric: str = "accuracy"
    combinations: int = 0
    combinations_made: int = 0


@dataclass(frozen=True)
class Status:
    """How a run stands. graph: finished, running (being prepared), damaged or waiting; trunk: None, not asked for.

    Of a sweep of training, grid: how each of its runs stands, and joint_runs: those that are souped; ingredients
    are those of all runs, trunk is one that is not finished, and cells are those of joint runs.
    """

    root: str
    graph: TaskStatus
    sizes: GraphSummary | None
    trunk: TaskStatus | None
    ingredients: tuple[TaskStatus, ...]
    soups: tuple[SoupStatus, ...]
    cells: tuple[TaskStatus, ...]
    report: str
    estimate: Estimate
    now: float
    own_clock: bool
    grid: tuple[Status, ...] = ()
    joint_runs: tuple[Status, ...] = ()

    @property
    def name(self) -> str:
        """That of the run's folder."""
        return Path(self.root).name


def read_status(job: Job, run: RunDir) -> Status:
    """How the run stands now. Nothing is locked, and a file that vanishes meanwhile is taken for missing."""
    if job.sweep.trains:
        return _read_grid(job, run)
    reader, rows = TaskReader.of(run), imports.read(run.imported)
    if rows:
        job = imports.set_count(job, len(rows))
    (graph, sizes), trunk = _read_graph(job, reader), None if rows else _read_trunk(job, reader)
    there = list_names(run.ingredients)  # after the leases: what is published meanwhile is not missed
    ingredients = tuple(
        reader.read_ingredient(index, there, None if rows else hyperparameters(job, index).epochs)
        for index in range(job.train.ingredients)
    )
    if job.train.start == "snapshots" and not rows:
        ingredients = _chain(ingredients)
    return Status(
        root=str(run.root),
        graph=graph,
        sizes=sizes,
        trunk=trunk,
        ingredients=ingredients,
        soups=tuple(_read_soups(job, run)),
        cells=reader.read_trials(),
        report=_describe_report(run, [run.soup(method) for method in job.soup.methods]),
        estimate=_judge_import(reader, ingredients) if rows else estimate_end(ingredients, trunk),
        now=reader.now,
        own_clock=reader.ahead is None,
    )


def _chain(tasks: Sequence[TaskStatus]) -> tuple[TaskStatus, ...]:
    """Ingredients that go on from one another; what waits for one that failed has failed with it."""
    found = [*tasks[:1]]
    for task in tasks[1:]:
        before, task = found[-1], replace(task, after=found[-1].work)
        if task.state == "waiting" and before.state == "failed":
            task = replace(task, state="failed", why=f"it goes on from {before.work}, which failed")
        found.append(task)
    return tuple(found)


def _judge_import(reader: TaskReader, ingredients: Sequence[TaskStatus]) -> Estimate:
    """Nothing is trained in a run of imported ingredients; some may not be imported yet."""
    left = sum(task.state != "finished" for task in ingredients)
    if not left:
        return Estimate(0.0, "nothing is trained: the ingredients were imported")
    held = reader.read_lease(reader.run.lease("import"), "import")
    now = "which is done now" if held is not None and held.state == "running" else imports.AGAIN
    return Estimate(None, f"{left} of {len(ingredients)} ingredients are not imported yet: {now}")


def _read_graph(job: Job, reader: TaskReader) -> tuple[TaskStatus, GraphSummary | None]:
    run = reader.run
    try:
        return TaskStatus("graph", "finished"), summary.graph(run.graph)
    except FileError as error:
        why = str(error) if run.graph.exists() else ""
    held = reader.read_lease(run.graph_lease(identity.request_key(job)), "graph")
    return held or TaskStatus("graph", "damaged" if why else "waiting", why=why), None


def _read_trunk(job: Job, reader: TaskReader) -> TaskStatus | None:
    path, epochs, why = reader.run.trunk, job.train.trunk_epochs, ""
    if not epochs:
        return None
    if path.exists():
        try:
            return TaskStatus("trunk", "finished", epochs=epochs, seconds=summary.seconds(path, "trunk"))
        except FileError as error:
            why = str(error)
    task, starts = reader.read_unfinished("trunk", epochs, why), job.train.trunk_starts
    if task.title or starts == 1:
        return task
    done = summary.count_starts(reader.run.trunk_starts)
    return replace(task, title=f"trunk (start {done + 1} of {starts})")


def _read_soups(job: Job, run: RunDir) -> Iterator[SoupStatus]:
    swept: dict[str, int] = {method: len(trials) for method, trials in expand_grids(job).items()}
    for method in job.soup.methods:
        path, trials = run.soup(method), swept.get(method, 0)
        made = sum(name.endswith(".h5") and not name.startswith(".") for name in list_names(run.cells(method)))
        # Older sweeps may have left more files than there are trials now.
        found = SoupStatus(method, False, combinations=trials, combinations_made=min(made, trials))
        try:
            seen = summary.model(path, "soup")
        except FileError as error:
            yield replace(found, why=str(error) if path.exists() else "")
            continue
        found = replace(found, made=True, seconds=seen.seconds, created=seen.created)
        yield replace(found, validation=seen.validation_accuracy, test=seen.test_accuracy, metric=seen.metric)


def _describe_report(run: RunDir, soups: Sequence[Path]) -> str:
    written = _read_mtime(run.report)
    if written is None:
        return "not there"
    newest = max((_read_mtime(path) or 0.0 for path in soups), default=0.0)
    return "older than the soups" if newest > written else "there"


def _name_in_sweep(run: Status, task: TaskStatus) -> TaskStatus:
    """A run's ingredient with the names that it has in the sweep."""
    after = f"{run.name}/{task.after}" if task.after else ""
    return replace(task, work=f"{run.name}/{task.work}", after=after)


def _read_grid(job: Job, run: RunDir) -> Status:
    """How a sweep of training stands, all of its runs together."""
    graph, sizes = _read_graph(job, TaskReader.of(run))
    grid = tuple(read_status(each.job, RunDir.of(each.job)) for each in expand_grid(job))
    asked = [joint.count_ingredients() for joint in list_joint_runs(job)]
    joint_runs = tuple(read_status(each, RunDir.of(each)) for each in asked)
    ingredients = tuple(_name_in_sweep(each, task) for each in grid for task in each.ingredients)
    trunks = [replace(each.trunk, work=f"{each.name}/{each.trunk.work}") for each in grid if each.trunk]
    trunk = next((task for task in trunks if task.state != "finished"), trunks[0] if trunks else None)
    return Status(
        root=str(run.root),
        graph=graph,
        sizes=sizes,
        trunk=trunk,
        ingredients=ingredients,
        soups=(),
        cells=tuple(task for each in joint_runs for task in each.cells),
        report=_describe_report(run, [RunDir.of(each).soup(method) for each in asked for method in each.soup.methods]),
        estimate=estimate_end(ingredients, trunk),
        now=max(each.now for each in grid),
        own_clock=any(each.own_clock for each in grid if any(task.heartbeat_seconds for task in each.ingredients)),
        grid=grid,
        joint_runs=joint_runs,
    )
