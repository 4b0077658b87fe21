"""What a report is made from: every ingredient, every soup, every phase of a run, read from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from gnnsoup_hpc.config import DistilJob, Job, Trial, expand_grids
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.config.grid import list_joint_runs
from gnnsoup_hpc.config.methods import METHOD_NAMES
from gnnsoup_hpc.config.task import WORDS
from gnnsoup_hpc.errors import RunError, advise
from gnnsoup_hpc.evaluation.tasks import Task, make_task, score
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import imports, states
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.alignment import AlignmentRecord
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import Diagnosis, Ingredient, Soup
from gnnsoup_hpc.models.jobs import load_job_of_run
from gnnsoup_hpc.runtime.profiling import Measurement, subtract_baseline
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role


@dataclass(frozen=True)
class Phase:
    """Cost of one phase: seconds summed over ingredients or methods, and the highest peak above its baseline."""

    name: str
    seconds: float
    peak_host_bytes: float
    baseline_host_bytes: float


@dataclass(frozen=True)
class TriedTrial:
    """A trial and what came of it. soup: None where it failed, or is not there yet."""

    trial: Trial
    soup: Soup | None
    selected: bool

    @property
    def values(self) -> dict[str, Any]:
        """What was swept, by its field of [soup]."""
        values, method = self.trial.values, self.trial.method
        return {key if key == "seed" else f"{method}.{key}": value for key, value in values.items()}


@dataclass(frozen=True)
class Contents:
    """A run, as a report sees it: the ingredients are those in the soups."""

    run: RunDir
    job: Job
    graph: str
    test_nodes: int
    test_classes: tuple[int, ...]  # test nodes of each class; none where nodes have no classes
    task: Task  # what the accuracies are, and their errors
    kind: str  # of the task
    means: Mapping[str, Any]  # of [task], what differs from classes judged by accuracy
    baseline: Mapping[str, float]  # validation and test metric of what looks at no node
    ingredients: tuple[Ingredient, ...]
    soups: tuple[Soup, ...]
    phases: tuple[Phase, ...]
    alignment: AlignmentRecord | None = None  # None where nothing was asked about it
    diagnosis: Diagnosis | None = None  # of these very ingredients
    trials: tuple[TriedTrial, ...] = ()  # of sweeps
    split: str = ""  # which split was taken, in words; not known of a graph of an older version
    notes: tuple[str, ...] = ()  # what preparing had to say of the source
    unlisted: tuple[str, ...] = ()  # methods whose soups are there too, and which the job does not list
    source_sha256: str = ""  # of what the graph was read from
    graph_made_with: Mapping[str, Any] = field(default_factory=dict)  # fields of [graph] and [partition] that matter

    @cached_property
    def best(self) -> Ingredient:
        """The ingredient with the best validation metric; of equals, that with the lowest number."""
        return max(self.ingredients, key=lambda i: (score(self.task, i.validation_accuracy), -i.index))

    @cached_property
    def same(self) -> bool:
        """Whether all ingredients, of which there are several, are one model."""
        first, *others = self.ingredients
        return bool(others) and all(
            torch.equal(tensor, other.state[name]) for other in others for name, tensor in first.state.items()
        )

    @property
    def metric(self) -> str:
        """The task's, in words."""
        return WORDS[self.task.name]

    def error_of(self, made: Ingredient | Soup) -> float:
        """Standard error of a test metric."""
        return self.task.error(made.test_accuracy, self.test_nodes, made.judged.test_draws)

    @property
    def engines(self) -> list[str]:
        """What trained the ingredients, as far as it is known."""
        return sorted({ingredient.engine for ingredient in self.ingredients if ingredient.engine})

    def soup(self, method: str) -> Soup | None:
        """The soup of one method, if there is one."""
        return next((soup for soup in self.soups if soup.method == method), None)


def read_contents(root: Path) -> Contents:
    """Read the run in folder `root`.

    Raises: RunError where it is no run, holds no soup yet, or soups that do not belong together; FileError where one of
    its files is damaged.
    """
    run = RunDir(root)
    if not root.exists():
        raise RunError(
            f"{root} is not the folder of a run: nothing of that name is there (from {Path.cwd()});"
            " `gnnsoup run JOB` makes one"
        )
    if not run.job.is_file():
        raise RunError(f"{root} is not the folder of a run (it has no job.toml): run `gnnsoup run JOB` first")
    job = jobs.load(str(run.job))
    if job.sweep.trains:
        joint_runs = list_joint_runs(load_job_of_run(root))
        folders = ", ".join(str(RunDir.of(joint.job).root) for joint in joint_runs)
        raise RunError(f"{root} is the run of a sweep of training, whose soups lie in {folders}: name one of these")
    with advise("run `gnnsoup soup JOB`, which makes it again"):
        soups = tuple(soup_store.read(run.soup(name)) for name in job.soup.methods if run.soup(name).exists())
    if not soups:
        raise RunError(f"{root} holds no soup yet: run `gnnsoup soup JOB` first")
    for soup in soups:
        _check_options(run, job, soup)
    again = imports.AGAIN if run.imported.exists() else "run `gnnsoup train JOB`, which trains it again"
    with advise(f"{again}, then `gnnsoup soup JOB`"):
        ingredients = tuple(ingredient_store.read(run.ingredient(int(name))) for name in soups[0].ingredients)
    weights = {f"{ingredient.index:04d}": states.sha256(ingredient.state) for ingredient in ingredients}
    with graph_store.open_graph(run.graph, job) as graph:
        _check_ingredients(run, graph, weights, soups)
        prepared = graph.measurement
        facts = describe_graph(job, graph)
        diagnosis = _read_diagnosis(run, graph, weights)
    if diagnosis is not None and diagnosis.metric != facts["task"].name:
        diagnosis = None
    facts["diagnosis"] = diagnosis
    alignment, trials = _read_alignment(run, job, soups), read_trials(run, job, soups)
    phases = (
        _phase("prepare", [prepared]),
        _phase("train", [ingredient.measurement for ingredient in ingredients]),
        *([_phase("align", [alignment.measurement])] if alignment else []),
        *([_phase("sweep", [row.soup.measurement for row in trials if row.soup])] if trials else []),
        _phase("soup", [soup.measurement for soup in soups]),
    )
    others = (name for name in METHOD_NAMES if name not in job.soup.methods and run.soup(name).exists())
    facts |= {"alignment": alignment, "trials": trials, "unlisted": tuple(others)}
    return Contents(run, job, ingredients=ingredients, soups=soups, phases=phases, **facts)


def describe_graph(job: Job, graph: GraphFile) -> dict[str, Any]:
    """What a report says of the graph, as fields of `Contents`."""
    y, roles, task = graph.y(0, graph.nodes), graph.role(0, graph.nodes), make_task(job.task, graph)
    labels = y[roles == Role.TEST]
    counted = graph.targets == "classes"
    return {
        "graph": (
            f"{job.graph.source}, {graph.nodes} nodes, {graph.edges} directed entries, {graph.features} features"
            f" ({job.graph.features}), split {job.graph.split}, {graph.parts} parts"
        ),
        "test_nodes": len(labels),
        "test_classes": tuple(np.bincount(labels, minlength=graph.classes).tolist()) if counted else (),
        "task": task,
        "kind": graph.resolve_task(job.task).kind,
        "means": graph.resolve_task(job.task).values,
        "baseline": {role.name.lower(): task.baseline(y[roles == role]) for role in (Role.VALIDATION, Role.TEST)},
        "split": graph.split,
        "notes": graph.notes,
        "source_sha256": graph.source_sha256,
        "graph_made_with": graph.made_with,
    }


def _read_alignment(run: RunDir, job: Job, soups: Sequence[Soup]) -> AlignmentRecord | None:
    """What is known of the ingredients' alignment. Raises: RunError where a soup was made with another one."""
    asked = job.soup.align != "none" and run.alignment.exists()
    with advise("run `gnnsoup soup JOB`, which makes it again"):
        made = alignment_store.read(run.alignment) if asked else None
    here = alignment_store.sha256(made.alignment) if made else ""
    for soup in soups:
        if (alignment_store.sha256(soup.alignment) if soup.alignment else "") != here:
            raise RunError(
                f"{run.soup(soup.method)} was made of ingredients that were aligned otherwise than the run's job says:"
                " run `gnnsoup soup JOB`, which brings all soups up to date"
            )
    return made


def _read_diagnosis(run: RunDir, graph: GraphFile, weights: Mapping[str, str]) -> Diagnosis | None:
    """The run's diagnosis; None where there is none, or one of other ingredients or of another graph.

    Raises: RunError where the file is damaged.
    """
    if not run.diagnosis.exists():
        return None
    with advise(f"run `gnnsoup diagnose {run.root}`, which makes it again"):
        found = diagnosis_store.read(run.diagnosis)
    same = {each.ingredient: each.state_sha256 for each in found.ingredients} == weights
    return found if same and found.graph_sha256 == graph.sha256 else None


def _check_options(run: RunDir, job: Job, soup: Soup) -> None:
    """Refuse a soup that the job, as it is now, would make otherwise."""
    wanted, made = list_options(run, job, soup.method), dict(soup.options)
    trials = [trial for trials in expand_grids(job).values() for trial in trials if trial.method == soup.method]
    if any(made | list_options(run, trial.job, soup.method) == made for trial in trials):
        return
    if len(soup.ingredients) + len(soup.left_out) != job.train.ingredients:
        wanted["train.ingredients"] = job.train.ingredients
        made["train.ingredients"] = len(soup.ingredients) + len(soup.left_out)
    key = next((key for key in wanted if made.get(key, wanted[key]) != wanted[key]), None)
    if key is not None:
        raise RunError(
            f"{run.soup(soup.method)} was made with {key} = {made[key]!r}, the run's job now says {wanted[key]!r}:"
            " run `gnnsoup soup JOB`, which brings all soups up to date"
        )


def _check_ingredients(run: RunDir, graph: GraphFile, weights: Mapping[str, str], soups: Sequence[Soup]) -> None:
    """Refuse soups that are not made of the graph, the parts and the ingredients that are here now."""
    here = soup_store.hash_ingredients(graph.sha256, str(graph.cut["part_sha256"]), weights)
    other = next((soup.method for soup in soups if soup.ingredients_sha256 != here), None)
    if other is not None:
        raise RunError(
            f"{run.soup(other)} is made of other ingredients or parts than those that are here: run `gnnsoup soup JOB`,"
            " which brings all soups up to date"
        )


def read_trials(run: RunDir, job: Job, soups: Sequence[Soup]) -> tuple[TriedTrial, ...]:
    """Every trial of the sweeps whose best is among the soups. Raises: RunError where the file of one is damaged."""
    found: list[TriedTrial] = []
    for method, trials in expand_grids(job).items():
        chosen = next((soup for soup in soups if soup.method == method), None)
        if chosen is None:
            continue
        with advise("run `gnnsoup soup JOB`, which makes it again"):
            made = [soup_store.read(path) for path in sorted(run.cells(method).glob("*.h5"))]
        akin = [soup for soup in made if soup.ingredients_sha256 == chosen.ingredients_sha256]
        common = {key: value for key, value in chosen.options.items() if key != "start_sha256"}
        for trial in trials:
            wanted = common | list_options(run, trial.job, method)
            soup = next((soup for soup in akin if soup.options == wanted), None)
            found.append(TriedTrial(trial, soup, selected=wanted == chosen.options))
    return tuple(found)


def list_options(run: RunDir, job: Job, method: str) -> dict[str, Any]:
    """What the soup of a method says that it was made with. Raises: RunError where what it begins at is not there."""
    section = getattr(job.soup, method, None)
    found = {"seed": job.soup.seed} | (section.model_dump(mode="json") if section is not None else {})
    if isinstance(section, DistilJob):
        with advise("run `gnnsoup soup JOB`, which brings all soups up to date"):
            found |= soup_store.read_start(run, section.start_method)
    return found


def group_by_seeds(rows: Sequence[TriedTrial]) -> dict[tuple[str, str], list[Soup]]:
    """Of sweeps that have several seeds: the soups by their method and their other values, in words."""
    groups: dict[tuple[str, str], list[Soup]] = {}
    for row in rows:
        if "seed" in row.trial.values:
            others = ", ".join(f"{key} = {value}" for key, value in row.trial.values.items() if key != "seed")
            groups.setdefault((row.trial.method, others), []).extend([row.soup] if row.soup else [])
    return groups


def compute_spread(made: Sequence[Soup] | Sequence[Ingredient], role: str) -> tuple[float, float]:
    """Mean and sample standard deviation of the accuracies in a role; NaN where there are too few."""
    values: list[float] = [getattr(each, f"{role}_accuracy") for each in made]
    return (mean(values) if values else nan, stdev(values) if len(values) > 1 else nan)


def count_models(soup: Soup) -> int:
    """How many models one prediction of a soup runs through: one, but all of them for an ensemble."""
    return int((soup.mixture.alpha[0] != 0).sum()) if soup.mixture.of == "predictions" else 1


def _phase(name: str, spent: list[Measurement]) -> Phase:
    highest = max(spent, key=lambda one: subtract_baseline(one) if isfinite(subtract_baseline(one)) else -inf)
    return Phase(name, sum(m["seconds"] for m in spent), highest["peak_host_bytes"], highest["baseline_host_bytes"])
