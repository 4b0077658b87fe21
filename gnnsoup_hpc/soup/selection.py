"""Which ingredients are fit for souping; what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gnnsoup_hpc.config import Job, list_choosing
from gnnsoup_hpc.config.grid import JointRun
from gnnsoup_hpc.errors import FileError, ForeignFileError, RunError, advise
from gnnsoup_hpc.evaluation.tasks import Task, rank_by_score, score
from gnnsoup_hpc.io import imports, states
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.imports import ImportedFile
from gnnsoup_hpc.io.ingredient import ImportedOrigin, Origin
from gnnsoup_hpc.io.records import Ingredient
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Doubles

Read = Callable[[int, Path], Ingredient]


@dataclass(frozen=True)
class Selection:
    """Fit ingredients with the hashes of their weights, one line for each that is not fit, and fit ones' accuracies.

    These are on validation nodes, as the ingredients' files record them, and so are the metric's bootstrap samples.
    trained_on_all: those that were trained on the labels of these nodes too.
    """

    fit: dict[int, str]
    unfit: dict[int, str]
    accuracies: dict[int, float] = field(default_factory=dict)
    draws: dict[int, Doubles | None] = field(default_factory=dict)
    trained_on_all: list[int] = field(default_factory=list)

    def best(self, task: Task) -> int:
        """The ingredient with the best recorded accuracy, of equals the first."""
        ids = list(self.fit)
        return ids[rank_by_score([score(task, self.accuracies[index]) for index in ids], ids)[0]]


def select_ingredients(job: Job, model: Model, graph: GraphFile, log: Log) -> Selection:
    """Look at every ingredient of the job.

    Raises: RunError where there is none, none is fit, or one is not fit and the job says to refuse; or where a method
    would choose or learn by labels that one was trained on.
    """
    run = RunDir.of(job)
    rows = imports.read(run.imported)
    read = _read_imported(job, rows, model, graph) if rows else _read_trained(job, run, model, graph)
    selection, first = _select(job, run, read)
    if first and (job.soup.unfit == "refuse" or not selection.fit):
        others = len(selection.unfit) - len(set(job.soup.leave_out)) - 1
        more = f" (and {others} more)" if others else ""
        if isinstance(first, ForeignFileError):
            again = imports.AGAIN if rows else "run `gnnsoup train JOB`"
            advice = f"give the job a name of its own (--set name=…), or move the file away and {again}"
        else:
            advice = imports.AGAIN if rows else "run `gnnsoup train JOB`, which trains missing and damaged ingredients"
        raise RunError(f"{first}{more}: {advice}, or leave such ones out with --set 'soup.unfit=leave out'")
    choosing = list_choosing(job, len(selection.fit))
    if selection.trained_on_all and choosing:
        path = run.ingredient(selection.trained_on_all[0])
        raise RunError(
            f"{path} was trained on validation labels too (train.labels = 'all'), by which {', '.join(choosing)} would"
            " choose or learn: name other soup.methods (uniform, ensemble; best of one ingredient; distil with"
            " train.labels = 'all'), or leave it out (soup.leave_out)"
        )
    for reason in selection.unfit.values():
        log.say(f"soup: left out: {reason}")
    return selection


def select_across(joint: JointRun, model: Model, graph: GraphFile, log: Log) -> list[tuple[Path, str]]:
    """Files of the fit ingredients of a joint run's runs, in their order, and hashes of their weights.

    Raises: RunError where none is fit, or one is not and the job says to refuse.
    """
    found = list[tuple[Path, str]]()
    for job in (each.job for each in joint.runs):
        run = RunDir.of(job)
        try:
            soup = job.soup.model_copy(update={"leave_out": ()})  # whose numbers are the joint run's
            every = job.model_copy(update={"soup": soup})
            selection = select_ingredients(ingredient_store.resolve_job(every, run), model, graph, log)
        except RunError as error:
            if job.soup.unfit == "refuse":
                raise
            log.say(f"soup: left out: {error}")
            continue
        found += [(run.ingredient(index), sha256) for index, sha256 in selection.fit.items()]
    if not found:
        raise RunError(f"none of the runs in {joint.runs[0].job.runs} has a fit ingredient: run `gnnsoup train JOB`")
    return found


def select_present(job: Job, model: Model, graph: GraphFile) -> Selection:
    """The fit ingredients of a job's run, which need not be begun."""
    run = RunDir.of(job)
    job = ingredient_store.resolve_job(job, run)
    try:
        return _select(job, run, _read_trained(job, run, model, graph))[0]
    except RunError as error:
        return Selection({}, dict.fromkeys(range(job.train.ingredients), str(error)))


def _read_trained(job: Job, run: RunDir, model: Model, graph: GraphFile) -> Read:
    """Reads ingredients that were trained by the job. Raises: RunError where there is none."""
    if not any(run.ingredient(index).exists() for index in range(job.train.ingredients)):
        raise RunError(f"{run.ingredients} holds no ingredient of this job: {imports.MAKE}")
    with advise("run `gnnsoup train JOB`, which makes it again"):
        initial = states.sha256(ingredient_store.read_initial(run.initial, model, job.train.seed))
    initial, trunk = _hash_branch(job, run, model, graph, initial)

    def read(index: int, path: Path) -> Ingredient:
        if not path.exists():
            raise FileError(f"{path} is not trained yet")
        previous = ingredient_store.hash_previous(job, run, index)
        return ingredient_store.read(path, Origin.of(job, model, graph, initial, index, trunk, previous))

    return read


def _read_imported(job: Job, rows: Sequence[ImportedFile], model: Model, graph: GraphFile) -> Read:
    """Reads ingredients that were imported from those files."""
    task = graph.resolve_task(job.task).values

    def read(index: int, path: Path) -> Ingredient:
        if not path.exists():
            raise FileError(f"{path} is not imported yet")
        return ingredient_store.read_imported(path, ImportedOrigin(graph.sha256, model, rows[index], task=task))

    return read


def select_sound(job: Job, model: Model, *_: object) -> Selection:
    """Every ingredient of the run that can be mixed at all, whatever it was trained by: that is what to diagnose.

    Raises: RunError where there is none.
    """
    run = RunDir.of(job)

    def read(index: int, path: Path) -> Ingredient:
        ingredient = ingredient_store.read(path)
        states.check_shapes(path, ingredient.state, model)
        ingredient_store.check_code(path, model)
        return ingredient

    selection, first = _select(job, run, read)
    if not selection.fit:
        make = imports.AGAIN if run.imported.exists() else imports.MAKE
        raise RunError(f"{run.ingredients} holds no ingredient to diagnose ({first}): {make}")
    return selection


def _select(job: Job, run: RunDir, read: Read) -> tuple[Selection, FileError | None]:
    """The ingredients that `read` gives, what is wrong with the others, and the first error of these.

    Raises: RunError where soup.leave_out names one that there is not, or all.
    """
    count, left_out = job.train.ingredients, set(job.soup.leave_out)
    if wrong := [index for index in job.soup.leave_out if index >= count]:
        raise RunError(f"soup.leave_out names ingredient {wrong[0]}, and there are {count}, numbered from 0")
    if len(left_out) == count:
        raise RunError("soup.leave_out names all ingredients: leave one in")
    selection, first = Selection({}, {}), None
    for index in range(count):
        if index in left_out:
            selection.unfit[index] = f"{run.ingredient(index).name} (soup.leave_out)"
            continue
        try:
            ingredient = read(index, run.ingredient(index))
        except FileError as error:
            selection.unfit[index], first = str(error), first or error
        else:
            selection.fit[index] = states.sha256(ingredient.state)
            selection.accuracies[index] = ingredient.validation_accuracy
            selection.draws[index] = ingredient.judged.validation_draws
            how = ingredient.hyperparameters
            selection.trained_on_all.extend([index] if how and how.labels == "all" else [])
    return selection, first


def _hash_branch(job: Job, run: RunDir, model: Model, graph: GraphFile, initial: str) -> tuple[str, str]:
    """Hashes of the state that all began at, and of that which the ingredients branched from; "" without a trunk."""
    if not job.train.trunk_epochs:
        return initial, ""
    with advise("run `gnnsoup train JOB`, which makes it again"):
        try:
            origin = Origin.of(job, model, graph, initial, None)
            return ingredient_store.hash_branch(run.trunk, initial, origin)
        except ForeignFileError as error:
            advice = f"give the job a name of its own (--set name=…), or move {run.trunk} away"
            raise RunError(f"{error}: {advice}") from None
