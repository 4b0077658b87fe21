"""Which ingredients are fit for souping; what is wrong with the others."""

from __future__ import annotations

from dataclasses import dataclass

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, ForeignFileError, RunError
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


def select_ingredients(job: Job, run: RunDir, architecture: Model, graph: GraphFile, log: Log) -> Selection:
    """Look at every ingredient of the job.

    Raises: RunError where none is trained, none is fit, or one is not fit and the job says to refuse.
    """
    if not any(run.ingredient(index).exists() for index in range(job.train.ingredients)):
        raise RunError(f"{run.ingredients} holds no ingredient of this job: run `gnnsoup train JOB` first")
    initial = states.sha256(_initial(job, run, architecture))
    trunk = _trunk_sha256(job, run, architecture, graph, initial)
    fit: dict[int, str] = {}
    unfit: dict[int, FileError] = {}
    for index in range(job.train.ingredients):
        try:
            fit[index] = _hash(run, index, Origin.of(job, architecture, graph, initial, index, trunk))
        except FileError as error:
            unfit[index] = error
    _judge(job, fit, unfit, log)
    return Selection(fit, {index: str(error) for index, error in unfit.items()})


def _initial(job: Job, run: RunDir, architecture: Model) -> State:
    try:
        return ingredient_store.read_initial(run.initial, architecture, job.train.seed)
    except FileError as error:
        raise RunError(f"{error}: run `gnnsoup train JOB`, which makes it again") from None


def _trunk_sha256(job: Job, run: RunDir, architecture: Model, graph: GraphFile, initial: str) -> str:
    """Hash of the state that the ingredients branched from; none without a trunk."""
    if not job.train.trunk_epochs:
        return ""
    try:
        return states.sha256(
            ingredient_store.read_trunk(run.trunk, Origin.of(job, architecture, graph, initial, None)).state
        )
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {run.trunk} away") from None
    except FileError as error:
        raise RunError(f"{error}: run `gnnsoup train JOB`, which makes it again") from None


def _hash(run: RunDir, index: int, origin: Origin) -> str:
    path = run.ingredient(index)
    if not path.exists():
        raise FileError(f"{path} is not trained yet")
    return states.sha256(ingredient_store.read(path, origin).state)


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
