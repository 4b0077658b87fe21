"""A look at a whole run: what is there, what is in the making, what is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from gnnsoup_hpc.analysis.status.estimate import Estimate, estimate
from gnnsoup_hpc.analysis.status.piece import TaskReader, TaskStatus, list_names
from gnnsoup_hpc.config import Job, expand_grids
from gnnsoup_hpc.config.turns import hyperparameters
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.io import glance
from gnnsoup_hpc.io.glance import GraphSummary
from gnnsoup_hpc.runtime.run_dir import RunDir


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
    combinations: int = 0
    combinations_made: int = 0


@dataclass(frozen=True)
class Status:
    """How a run stands. graph: finished, running (being prepared), damaged or waiting; trunk: None, not asked for."""

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

    @property
    def counts(self) -> Counter[str]:
        """How many ingredients stand how."""
        return Counter(piece.state for piece in self.ingredients)


def read_status(job: Job, run: RunDir) -> Status:
    """How the run stands now. Nothing is locked, and a file that vanishes meanwhile is taken for missing."""
    watch = TaskReader.of(run)
    graph, sizes = _graph(job, watch)
    trunk = _trunk(job, watch)
    there = list_names(run.ingredients)  # after the leases: what is published meanwhile is not missed
    ingredients = tuple(
        watch.ingredient(index, there, hyperparameters(job, index).epochs) for index in range(job.train.ingredients)
    )
    return Status(
        root=str(run.root),
        graph=graph,
        sizes=sizes,
        trunk=trunk,
        ingredients=ingredients,
        soups=_soups(job, run),
        cells=watch.cells(),
        report=_report(job, run),
        estimate=estimate(ingredients, trunk),
        now=watch.clock.now,
        own_clock=watch.clock.ahead is None,
    )


def _graph(job: Job, watch: TaskReader) -> tuple[TaskStatus, GraphSummary | None]:
    run, why = watch.run, ""
    try:
        return TaskStatus("graph", "finished"), glance.graph(run.graph)
    except FileError as error:
        why = str(error) if run.graph.exists() else ""
    lease = run.graph_lease(identity.request_key(job))
    held = watch.held(lease, "graph")
    return held or TaskStatus("graph", "damaged" if why else "waiting", why=why), None


def _trunk(job: Job, watch: TaskReader) -> TaskStatus | None:
    epochs = job.train.trunk_epochs
    if not epochs:
        return None
    path = watch.run.trunk
    if path.exists():
        try:
            return TaskStatus("trunk", "finished", epochs=epochs, seconds=glance.seconds(path, "trunk"))
        except FileError as error:
            return watch.unfinished("trunk", epochs, str(error))
    return watch.unfinished("trunk", epochs)


def _soups(job: Job, run: RunDir) -> tuple[SoupStatus, ...]:
    sizes: dict[str, int] = {method: len(cells) for method, cells in expand_grids(job).items()}
    return tuple(_swept(run, _soup(run, method), sizes.get(method, 0)) for method in job.soup.methods)


def _swept(run: RunDir, soup: SoupStatus, size: int) -> SoupStatus:
    """With the files of its sweep's cells counted; older sweeps may have left more than there are to make."""
    made = (
        sum(name.endswith(".h5") and not name.startswith(".") for name in list_names(run.cells(soup.method)))
        if size
        else 0
    )
    return replace(soup, combinations=size, combinations_made=min(made, size))


def _soup(run: RunDir, method: str) -> SoupStatus:
    path = run.soup(method)
    try:
        seen = glance.model(path, "soup")
    except FileError as error:
        return SoupStatus(method, made=False, why=str(error) if path.exists() else "")
    return SoupStatus(method, True, seen.validation_accuracy, seen.test_accuracy, seen.seconds, seen.created)


def _report(job: Job, run: RunDir) -> str:
    """How the report stands, in words."""
    written = _modified(run.report)
    if written is None:
        return "not there"
    newest = max((_modified(run.soup(method)) or 0.0 for method in job.soup.methods), default=0.0)
    return "older than the soups" if newest > written else "there"


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
