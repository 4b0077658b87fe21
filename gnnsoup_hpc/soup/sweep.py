"""A sweep: every combination of a method's values is a trial, made by one rank alone; the best becomes the soup.

Ranks and jobs share the trials by leases in the run, and say nothing to each other. A trial is named for the hash of
all that its soup is a function of, so one that is there is never made again, by whatever number of ranks. The best is
the one with the best validation metric; of equals, the first in the order of the job's lists.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from gnnsoup_hpc.config import Job, SweptName, Trial, expand_grids
from gnnsoup_hpc.errors import DivergedError, RunError
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.io import files, summary
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.memory import limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.comm import SERIAL
from gnnsoup_hpc.runtime.launch import RankInfo, Threads
from gnnsoup_hpc.runtime.leases import LeaseMonitor
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.soup.distillation import open_teacher
from gnnsoup_hpc.soup.mixtures import Mixtures
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.train.task_board import TaskBoard, remove_leftovers

POLL_SECONDS = 0.5


def refuse_trials_beyond_limit(job: Job, mixtures: Mixtures, here: RankInfo) -> None:
    """Before anything is made: a trial is one rank's, whatever ranks could do together.

    Raises: MemoryLimitError where one would not stay within the memory limit.
    """
    sizes = Sizes.of(mixtures.graph, mixtures.model, mixtures.device)
    limit = Limit.of(job, here, mixtures.device)
    for method, trials in expand_grids(job).items():
        soups = [trial.job.soup for trial in trials]
        for soup in {(soup.pls.union, soup.pls.first_hop, soup.distil.union): soup for soup in soups}.values():
            alone = job.model_copy(update={"soup": soup.model_copy(update={"methods": (method,)})})
            limits.refuse(limit, limits.plan_souping(alone, sizes, limit)[1])


@dataclass(frozen=True)
class SweepTask:
    """A trial with what makes it, its file, and the name of its lease and status files."""

    trial: Trial
    runner: SoupRunner
    path: Path
    work: str

    @classmethod
    def of(cls, runner: SoupRunner, trial: Trial) -> SweepTask:
        """Named the same by whoever makes it, on whatever number of threads."""
        runner = replace(runner, job=trial.job)
        name = runner.fingerprint(trial.method).identity[:16]
        return cls(trial, runner, runner.mixtures.run.cell(trial.method, name), f"cell-{trial.method}-{name}")

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.trial.method} with {self.trial.text}"


def run_sweeps(runner: SoupRunner, here: RankInfo, again: bool) -> None:
    """Make all trials of the resolved job that are not there (or `again`, all), and publish the best. Rank-collective.

    Those of distil come last, for they may begin at the soup that another sweep has chosen.
    Raises: RunError where all of a method's trials failed, or one cannot be made again.
    """
    grids = expand_grids(runner.job)
    last: dict[SweptName, tuple[Trial, ...]] = {"distil": grids.pop("distil")} if "distil" in grids else {}
    for chosen in (grids, last):
        if chosen:
            Sweep(runner, here, chosen).run(again)


class Sweep:
    """One rank's side; each trial is made by one rank alone."""

    def __init__(self, runner: SoupRunner, here: RankInfo, grids: Mapping[SweptName, Sequence[Trial]]) -> None:
        """`runner`: that of the resolved job, which all ranks share; `grids`: the trials of each method."""
        together = self._together = runner.mixtures
        alone = replace(together.settings, comm=SERIAL, threads=Threads())
        self._mixtures = Mixtures(together.run, together.model, together.ids, together.graph, alone)
        self._mixtures.align(together.alignment)
        self._comm, self._here, self._run = together.comm, here, together.run
        self._log = Log(here.prefix, stop=here.stop)
        made = SoupRunner(runner.job, runner.selection, self._mixtures, self._log)
        self._tasks = {method: [SweepTask.of(made, trial) for trial in trials] for method, trials in grids.items()}
        self._all = list(chain.from_iterable(self._tasks.values()))
        self._known: set[Path] = set()

    def run(self, again: bool) -> None:
        """As `run_sweeps`. Rank-collective."""
        for task in self._all if again and self._here.rank == 0 else ():
            try:
                task.path.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"{task.path} cannot be removed: {error.strerror}; make its folder writable") from None
        self._comm.allgather(None)
        self._make_teachers()
        self._make_missing()
        self._comm.allgather(None)
        if self._here.rank == 0:
            self._publish_best()

    def _make_teachers(self) -> None:
        """What missing trials of distil imitate, once a temperature: by all ranks, for a trial's rank is alone."""
        distilled = [task.trial.job.soup.distil for task in self._tasks.get("distil", ()) if not self._is_there(task)]
        for temperature in self._comm.bcast(list(dict.fromkeys(options.temperature for options in distilled))):
            with open_teacher(self._together, temperature):
                pass
        self._together.clear()

    def _make_missing(self) -> None:
        """Return when every trial is there or has failed, having made those that no one else did.

        Ranks begin at different trials, so that they rarely ask for the same lease.
        """
        self._mixtures.warm_up()
        board, monitor = TaskBoard(self._run, self._here, self._log), LeaseMonitor()
        first = self._here.rank * len(self._all) // self._here.size
        todo = [task for task in self._all[first:] + self._all[:first] if not self._is_there(task)]
        while todo:
            held_by_others = [task for task in todo if not self._settle(task, board, monitor)]
            if held_by_others == todo:
                time.sleep(POLL_SECONDS)
            todo = held_by_others
        if self._here.rank == 0:
            remove_leftovers(self._run, [task.work for task in self._all if self._is_there(task)])

    def _settle(self, task: SweepTask, board: TaskBoard, monitor: LeaseMonitor) -> bool:
        """Whether a trial is there or has failed by now; not, where somebody else is at it.

        A combination that diverges is one that is not chosen; it ends nothing.
        """
        with leases.hold(self._run.lease(task.work), launch.describe(self._here), monitor) as ours:
            if not ours or self._is_there(task) or board.failed(task.work):
                return ours is not None
            try:
                with board.watch(task.work, task.title, 0):
                    soup = task.runner.make(task.trial.method, task.path, task.work)
            except DivergedError as error:
                self._log.say(f"soup: {task.title} failed: {error}")
                return True
            seconds = soup.measurement["seconds"]
            self._log.say(f"soup: {task.title} done in {seconds:.2f} s, validation {soup.validation_accuracy:.4f}")
            board.forget_failure(task.work)
            return True

    def _publish_best(self) -> None:
        for method, tasks in self._tasks.items():
            made = [task for task in tasks if task.path.exists()]
            if not made:
                raise RunError(f"{method} failed with every combination of the sweep: `gnnsoup status` says why")
            judge = self._mixtures.evaluator.task  # of equals the first
            best = max(made, key=lambda task: score(judge, summary.model(task.path, "soup").validation_accuracy))
            path, failed = self._run.soup(method), len(tasks) - len(made)
            if self._read_fingerprint(path) != soup_store.read_fingerprint(best.path):
                with files.publish(path) as private:
                    shutil.copyfile(best.path, private)
            of = f"{len(tasks)} combinations" + (f", {failed} of which failed" if failed else "")
            self._log.say(f"soup: {method} is best with {best.trial.text}, on validation; {of}")

    def _is_there(self, task: SweepTask) -> bool:
        """Whether a trial is there and whole, which is looked at once; one that is damaged is made again."""
        if task.path not in self._known and self._read_fingerprint(task.path) is not None:
            self._known.add(task.path)
        return task.path in self._known

    def _read_fingerprint(self, path: Path) -> str | None:
        return files.read_kept(path, soup_store.read_fingerprint, self._log, "soup")
