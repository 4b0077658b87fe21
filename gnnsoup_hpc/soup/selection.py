"""Which ingredients are fit for souping; what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, ForeignFileError, RunError, advise
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import State


@dataclass(frozen=True)
class Selection:
    """Fit ingredients with the hashes of their weights, and one line for each that is not fit."""

    fit: dict[int, str]
    unfit: dict[int, str]


def select_ingredients(job: Job, model: Model, graph: GraphFile, log: Log) -> Selection:
    """Look at every ingredient of the job.

    Raises: RunError where none is trained, none is fit, or one is not fit and the job says to refuse.
    """
    run = RunDir.of(job)
    if not any(run.ingredient(index).exists() for index in range(job.train.ingredients)):
        raise RunError(f"{run.ingredients} holds no ingredient of this job: run `gnnsoup train JOB` first")
    with advise("run `gnnsoup train JOB`, which makes it again"):
        initial = states.sha256(ingredient_store.read_initial(run.initial, model, job.train.seed))
    trunk = _trunk_sha256(job, run, model, graph, initial)

    def read(index: int, path: Path) -> State:
        if not path.exists():
            raise FileError(f"{path} is not trained yet")
        return ingredient_store.read(path, Origin.of(job, model, graph, initial, index, trunk)).state

    fit, unfit = _sort_ingredients(job, run, read)
    _judge(job, fit, unfit, log)
    return Selection(fit, {index: str(error) for index, error in unfit.items()})


def select_sound(job: Job, model: Model, *_: object) -> Selection:
    """Every ingredient of the run that can be mixed at all, whatever it was trained by: that is what to diagnose.

    Raises: RunError where there is none.
    """
    run = RunDir.of(job)

    def read(index: int, path: Path) -> State:
        state = ingredient_store.read(path).state
        states.check_shapes(path, state, model)
        return state

    fit, unfit = _sort_ingredients(job, run, read)
    if not fit:
        first = next(iter(unfit.values()))
        raise RunError(f"{run.ingredients} holds no ingredient to diagnose ({first}): run `gnnsoup train JOB` first")
    return Selection(fit, {index: str(error) for index, error in unfit.items()})


def _sort_ingredients(
    job: Job, run: RunDir, read: Callable[[int, Path], State]
) -> tuple[dict[int, str], dict[int, FileError]]:
    """The hash of each ingredient that `read` gives, and what is wrong with each other one."""
    fit: dict[int, str] = {}
    unfit: dict[int, FileError] = {}
    for index in range(job.train.ingredients):
        try:
            fit[index] = states.sha256(read(index, run.ingredient(index)))
        except FileError as error:
            unfit[index] = error
    return fit, unfit


def _trunk_sha256(job: Job, run: RunDir, model: Model, graph: GraphFile, initial: str) -> str:
    """Hash of the state that the ingredients branched from; none without a trunk."""
    if not job.train.trunk_epochs:
        return ""
    with advise("run `gnnsoup train JOB`, which makes it again"):
        try:
            origin = Origin.of(job, model, graph, initial, None)
            return states.sha256(ingredient_store.read_trunk(run.trunk, origin).state)
        except ForeignFileError as error:
            advice = f"give the job a name of its own (--set name=…), or move {run.trunk} away"
            raise RunError(f"{error}: {advice}") from None


def _judge(job: Job, fit: dict[int, str], unfit: dict[int, FileError], log: Log) -> None:
    if unfit and (job.soup.unfit == "refuse" or not fit):
        first = next(iter(unfit.values()))
        more = f" (and {len(unfit) - 1} more)" if len(unfit) > 1 else ""
        advice = (
            "give the job a name of its own (--set name=…), or move the file away and run `gnnsoup train JOB`"
            if isinstance(first, ForeignFileError)
            else "run `gnnsoup train JOB`, which trains missing and damaged ingredients"
        )
        raise RunError(f"{first}{more}: {advice}, or leave such ones out with --set 'soup.unfit=leave out'")
    for reason in unfit.values():
        log.say(f"soup: left out: {reason}")
    if len(fit) == 1:
        log.say("soup: there is one ingredient, so there is nothing to mix: every soup is that ingredient")
