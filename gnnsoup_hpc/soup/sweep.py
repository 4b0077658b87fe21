"""A sweep: every combination of a method's values is a cell, souped by one rank alone; the best becomes the soup.

Ranks and jobs share the cells by leases in the run, and say nothing to each other. A cell is named for the hash of all
that its soup is a function of, so one that is there is never made again, by whatever number of ranks. The best is the
one with the highest validation accuracy; of equals, the first in the order of the job's lists.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job, Trial, expand_grids
from gnnsoup_hpc.errors import DivergedError, FileError, RunError
from gnnsoup_hpc.io import files, glance
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.soup import SoupFingerprint
from gnnsoup_hpc.memory import limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.leases import LeaseMonitor
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.team import Team
from gnnsoup_hpc.train.cleanup import remove_leftovers
from gnnsoup_hpc.train.task_board import TaskBoard
from gnnsoup_hpc.utils.hashing import fingerprint

POLL_SECONDS = 0.5
_OF_MEASUREMENT = {"ranks", "threads", "device", "streamed"}  # what a recipe says of how, and not of what


def refuse_trials_beyond_limit(job: Job, here: RankInfo, graph: GraphFile, device: torch.device) -> None:
    """Before anything is made: a cell is one rank's, whatever ranks could do together.

    Raises: MemoryLimitError where one would not stay within the memory limit.
    """
    architecture = make_model(job.model, graph.features, graph.classes)
    sizes, limit = Sizes.of(graph, architecture, device.type == "cuda"), Limit.of(job, here)
    for method, cells in expand_grids(job).items():
        for soup in {cell.job.soup.pls.union: cell.job.soup for cell in cells}.values():
            alone = job.model_copy(update={"soup": soup.model_copy(update={"methods": (method,)})})
            limits.refuse(limit, limits.plan_souping(alone, sizes, limit)[1])


@dataclass(frozen=True)
class SweepTask:
    """A cell with what it takes to make it."""

    cell: Trial[Job]
    stove: SoupRunner
    recipe: SoupFingerprint

    @property
    def name(self) -> str:
        """The same for whoever makes it, on whatever number of threads."""
        return fingerprint({key: value for key, value in vars(self.recipe).items() if key not in _OF_MEASUREMENT})[:16]

    @property
    def path(self) -> Path:
        """Its file."""
        return self.stove.run.cell(self.cell.method, self.name)

    @property
    def work(self) -> str:
        """The name of its lease and notes."""
        return f"cell-{self.cell.method}-{self.name}"

    def make(self) -> None:
        """Soup it, and publish it."""
        method = make_methods(self.cell.job.soup)[self.cell.method]
        soup = self.stove.cook(method, self.recipe)
        preparation = self.stove.graph.preparation
        soup_store.write(self.path, soup, self.recipe, self.stove.architecture, preparation, self.cell.job)
        self.stove.log.say(
            f"soup: {self.cell.method} with {self.cell.text} done in {soup.measurement['seconds']:.2f} s, validation"
            f" {soup.validation_accuracy:.4f}"
        )


class Sweep:
    """One rank's side. `stove` is that of the resolved job, on this rank's own station."""

    def __init__(self, stove: SoupRunner, here: RankInfo) -> None:
        self._stove, self._here = stove, here
        self._dishes = {
            method: tuple(self._dish(cell) for cell in cells) for method, cells in expand_grids(stove.job).items()
        }
        self._known: set[Path] = set()

    def _dish(self, cell: Trial[Job]) -> SweepTask:
        stove = replace(self._stove, job=cell.job, team=Team(None, torch.get_num_threads()))
        return SweepTask(cell, stove, stove.recipe(make_methods(cell.job.soup)[cell.method]))

    def forget(self) -> None:
        """Take away the cells that are there, so that all are made anew. Raises: RunError."""
        for dish in self._all():
            try:
                dish.path.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"{dish.path} cannot be removed: {error.strerror}; make its folder writable") from None

    def share(self) -> None:
        """Return when every cell is there or has failed, having made those that no one else did.

        Ranks begin at different cells, so that they rarely ask for the same lease.
        """
        self._stove.station.warm_up()
        board, watch = TaskBoard(self._stove.run, self._here, self._stove.log), LeaseMonitor()
        dishes = list(self._all())
        first = self._here.rank * len(dishes) // self._here.size
        todo = [dish for dish in dishes[first:] + dishes[:first] if not self._is_there(dish)]
        while todo:
            held_by_others = [dish for dish in todo if not self._settled(dish, board, watch)]
            if held_by_others == todo:
                time.sleep(POLL_SECONDS)
            todo = held_by_others
        if self._here.rank == 0:
            remove_leftovers(self._stove.run, [dish.work for dish in self._all() if self._is_there(dish)])

    def _settled(self, dish: SweepTask, board: TaskBoard, watch: LeaseMonitor) -> bool:
        """Whether a cell is there or has failed by now; not, where somebody else is at it."""
        with leases.hold(self._stove.run.lease(dish.work), launch.describe(self._here), watch) as ours:
            if ours and not self._is_there(dish) and not board.failed(dish.work):
                self._make(dish, board)
        return ours is not None

    def _make(self, dish: SweepTask, board: TaskBoard) -> None:
        """A combination that diverges is one that is not chosen; it ends nothing."""
        try:
            with board.watched(dish.work, f"{dish.cell.method} with {dish.cell.text}", 0):
                dish.make()
        except DivergedError as error:
            self._stove.log.say(f"soup: {dish.cell.method} with {dish.cell.text} failed: {error}")
            return
        board.forget_failure(dish.work)

    def choose(self) -> None:
        """Publish each method's best cell as its soup. Raises: RunError where all of a method's cells failed."""
        for method, dishes in self._dishes.items():
            made = [dish for dish in dishes if dish.path.exists()]
            if not made:
                raise RunError(f"{method} failed with every combination of the sweep: `gnnsoup status` says why")
            best = _best(made)
            path = self._stove.run.soup(method)
            if not self._is_published(path, best):
                with files.publish(path) as private:
                    shutil.copyfile(best.path, private)
            self._stove.log.say(f"soup: {method} is best with {best.cell.text}, on validation; {_of(made, dishes)}")

    def _is_published(self, path: Path, best: SweepTask) -> bool:
        try:
            return path.exists() and soup_store.read_fingerprint(path) == soup_store.read_fingerprint(best.path)
        except FileError as error:
            self._stove.log.say(f"soup: {error}; made again")
            return False

    def _is_there(self, dish: SweepTask) -> bool:
        """Whether a cell is there and whole, which is looked at once; one that is damaged is made again."""
        if dish.path in self._known:
            return True
        if not dish.path.exists():
            return False
        try:
            soup_store.read_fingerprint(dish.path)
        except FileError as error:
            self._stove.log.say(f"soup: {error}; made again")
            return False
        self._known.add(dish.path)
        return True

    def _all(self) -> Iterator[SweepTask]:
        for dishes in self._dishes.values():
            yield from dishes


def _best(dishes: Sequence[SweepTask]) -> SweepTask:
    return max(dishes, key=lambda dish: glance.model(dish.path, "soup").validation_accuracy)  # of equals the first


def _of(made: Sequence[SweepTask], dishes: Sequence[SweepTask]) -> str:
    failed = len(dishes) - len(made)
    return f"{len(dishes)} combinations" + (f", {failed} of which failed" if failed else "")
