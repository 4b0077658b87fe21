"""The report of a sweep of training: a row a combination, and the soups of each joint run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from gnnsoup_hpc.analysis.report.build import Column, fill_column, tabulate
from gnnsoup_hpc.analysis.report.contents import Contents, compute_spread, describe_graph, read_contents
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import GridRun, JointRun, expand_grid, list_joint_runs
from gnnsoup_hpc.errors import FileError, RunError
from gnnsoup_hpc.evaluation.tasks import Task, score
from gnnsoup_hpc.io import files, imports, report
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import Ingredient, Soup
from gnnsoup_hpc.io.report import KIND, VERSION
from gnnsoup_hpc.models.kinds import describe_model
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.joint import is_of
from gnnsoup_hpc.soup.selection import select_present
from gnnsoup_hpc.types import Doubles
from gnnsoup_hpc.utils.text_table import align_columns, show_number


@dataclass(frozen=True)
class TrainedRun:
    """A combination, and its ingredients that are fit, without their weights."""

    run: GridRun
    ingredients: tuple[Ingredient, ...]
    task: Task

    @cached_property
    def best(self) -> Ingredient | None:
        """The ingredient with the best validation metric, of equals the first."""
        return max(self.ingredients, key=lambda one: score(self.task, one.validation_accuracy), default=None)

    @property
    def seconds(self) -> float:
        """Wall time of training, summed over ingredients."""
        return sum(one.measurement["seconds"] for one in self.ingredients)


@dataclass(frozen=True)
class SoupedRun:
    """A joint run, and its report; None where it has no soups of these ingredients, and `why`."""

    joint: JointRun
    contents: Contents | None
    why: str = ""


@dataclass(frozen=True)
class GridContents:
    """A sweep of training, as its report sees it."""

    run: RunDir
    job: Job
    graph: str
    test_nodes: int
    task: Task
    rows: tuple[TrainedRun, ...]
    joint_runs: tuple[SoupedRun, ...]

    def error_of(self, made: Ingredient | Soup) -> float:
        """Standard error of a test metric."""
        return self.task.error(made.test_accuracy, self.test_nodes, made.judged.test_draws)

    @cached_property
    def best(self) -> Ingredient | None:
        """The best ingredient on validation of all runs, of equals the first."""
        there = (row.best for row in self.rows if row.best is not None)
        return max(there, key=lambda one: score(self.task, one.validation_accuracy), default=None)


def read_grid(job: Job) -> GridContents:
    """What is there of a sweep of training. Raises: RunError where its graph is not there, or not the job's."""
    run = RunDir.of(job)
    with graph_store.open_graph(run.graph, job) as graph:
        facts = describe_graph(job, graph)
        found = [_read_joint_run(joint, graph, facts["task"]) for joint in list_joint_runs(job)]
    by_name = {row.run.job.name: row for trained, _ in found for row in trained}
    rows, souped = (by_name[each.job.name] for each in expand_grid(job)), (each for _, each in found)
    about = {name: facts[name] for name in ("graph", "test_nodes", "task")}
    return GridContents(run, job, rows=tuple(rows), joint_runs=tuple(souped), **about)


def _read_joint_run(joint: JointRun, graph: GraphFile, task: Task) -> tuple[list[TrainedRun], SoupedRun]:
    model = make_model_for(graph, joint.job.model, graph.resolve_task(joint.job.task).outputs)
    rows, chosen = list[TrainedRun](), list[tuple[Path, str]]()
    for each in joint.runs:
        run, fit = RunDir.of(each.job), select_present(each.job, model, graph).fit
        found = [(run.ingredient(index), sha256) for index, sha256 in fit.items()]
        read = (ingredient_store.read(path) for path, _ in found)
        rows.append(TrainedRun(each, tuple(replace(one, state={}) for one in read), task))
        chosen += found
    return rows, _read_soups(joint, chosen)


def _read_soups(joint: JointRun, chosen: Sequence[tuple[Path, str]]) -> SoupedRun:
    """The report of a joint run, if its soups are of these ingredients, files with hashes of weights."""
    run, again = RunDir.of(joint.job), "run `gnnsoup soup JOB`"
    if not run.job.exists():
        return SoupedRun(joint, None, f"not souped yet: {again}")
    try:
        if not is_of(imports.read(run.imported), chosen):
            return SoupedRun(joint, None, f"its soups are of other ingredients than are there now: {again}")
        return SoupedRun(joint, read_contents(run.root))
    except (RunError, FileError) as error:
        return SoupedRun(joint, None, str(error))


# ---- for people


def show_grid(found: GridContents) -> str:
    """The sweep's results as text."""
    keys = [name.partition(".")[2] for name in found.rows[0].run.values]
    metric = "" if found.task.counts_hits else f", {found.task.name}"
    head = ("", *keys, "ingredients", f"validation{metric}", "test", "best", "its test", "±", "seconds")
    lines = [
        f"{found.run.root}: {len(found.rows)} combinations, on {found.graph}",
        "",
        *map(str.rstrip, align_columns([head, *(_make_row(found, row) for row in found.rows)])),
        "validation, test: mean ± standard deviation over ingredients; best: the best on validation, * of all runs;",
        "±: standard error of its test metric. seconds: sums over ingredients.",
    ]
    for each in found.joint_runs:
        runs, place = len(each.joint.runs), RunDir.of(each.joint.job).root
        lines += ["", f"soups across {runs} runs, {describe_model(each.joint.job.model)}: {place}"]
        lines += list(_list_soups(each.contents)) if each.contents else [each.why]
    return "\n".join(lines)


def _make_row(found: GridContents, row: TrainedRun) -> tuple[str, ...]:
    values = (f"{value}" for value in row.run.values.values())
    done = f"{len(row.ingredients)} of {row.run.job.train.ingredients}"
    if row.best is None:
        return "", *values, done, *["-"] * 6
    both = (compute_spread(row.ingredients, role) for role in ("validation", "test"))
    spreads = (" ± ".join(show_number(value, ".4f") for value in spread) for spread in both)
    best = row.best.validation_accuracy, row.best.test_accuracy, found.error_of(row.best)
    numbers = *(f"{number:.4f}" for number in best), show_number(row.seconds, ".1f")
    return "*" if row.best is found.best else "", *values, done, *spreads, *numbers


def _list_soups(run: Contents) -> Iterator[str]:
    head = ("method", "ingredients", "validation", "test", "±", "- best", "seconds")
    rows = (
        (
            soup.method,
            f"{len(run.ingredients)}",
            f"{soup.validation_accuracy:.4f}",
            f"{soup.test_accuracy:.4f}",
            f"{run.error_of(soup):.4f}",
            f"{soup.test_accuracy - run.best.test_accuracy:+.4f}",
            f"{soup.measurement['seconds']:.2f}",
        )
        for soup in run.soups
    )
    yield from align_columns([head, *rows])


# ---- for programs


def make_grid_tables(found: GridContents) -> dict[str, tuple[Columns, str]]:
    """Tables by their names, each with what a row is."""
    tables = {"grid": (_grid_columns(found), "one row a combination")}
    there = [(each, each.contents) for each in found.joint_runs if each.contents]
    soups = [(each, contents, soup) for each, contents in there for soup in contents.soups]
    if soups:
        tables["across"] = (tabulate(soups, _ACROSS_COLUMNS), "one row a joint run and a method")
    return tables


def write_grid(found: GridContents) -> None:
    """Publish the report.h5 of a sweep of training. Format: docs/format.md."""
    with files.create_file(found.run.report, KIND, VERSION, f"report of the sweep {found.job.name}") as file:
        file.attrs.update(graph=found.graph, metric=found.task.name)
        for name, (columns, about) in make_grid_tables(found).items():
            report.put_table(file, name, columns, about)
        files.put_provenance(file, found.job.to_toml())


def _grid_columns(found: GridContents) -> Columns:
    def of_best(take: Any) -> Doubles:
        return np.array([nan if row.best is None else take(row.best) for row in found.rows])

    def spread(role: str, which: int) -> Doubles:
        return np.array([compute_spread(row.ingredients, role)[which] for row in found.rows])

    rows = found.rows
    swept = {key: fill_column([row.run.values[key] for row in rows]) for key in rows[0].run.values}
    selected = np.array([row.best is not None and row.best is found.best for row in rows], dtype=np.uint8)
    columns: Columns = {
        "run": ([row.run.job.name for row in rows], "1", "name of its folder in grid/"),
        **{key: (values, "1", f"value of {key}") for key, values in swept.items()},
        "ingredients": (np.array([len(row.ingredients) for row in rows]), "1", "that are there and fit"),
        "asked": (np.array([row.run.job.train.ingredients for row in rows]), "1", "train.ingredients"),
        "validation_mean": (spread("validation", 0), "1", "mean validation metric of its ingredients"),
        "validation_deviation": (spread("validation", 1), "1", "its standard deviation (sample)"),
        "test_mean": (spread("test", 0), "1", "mean test metric of its ingredients"),
        "test_deviation": (spread("test", 1), "1", "its standard deviation (sample)"),
        "validation_best": (of_best(lambda one: one.validation_accuracy), "1", "of the best ingredient on validation"),
        "test_best": (of_best(lambda one: one.test_accuracy), "1", "test metric of that ingredient"),
        "test_error": (of_best(found.error_of), "1", "standard error of test_best"),
        "seconds": (np.array([row.seconds for row in rows]), "s", "wall time of training, summed over ingredients"),
        "selected": (selected, "1", "1 for the run of the best ingredient on validation"),
    }
    return columns


_ACROSS_COLUMNS: tuple[Column[tuple[SoupedRun, Contents, Soup]], ...] = (
    ("run", lambda row: row[0].joint.job.name, "1", "name of its folder in joint/"),
    ("method", lambda row: row[2].method, "1", "souping method"),
    ("ingredients", lambda row: len(row[1].ingredients), "1", "of all runs that it joins"),
    ("validation_accuracy", lambda row: row[2].validation_accuracy, "1", "exact, on validation nodes"),
    ("test_accuracy", lambda row: row[2].test_accuracy, "1", "exact, on test nodes"),
    ("test_error", lambda row: row[1].error_of(row[2]), "1", "standard error of test_accuracy"),
    (
        "test_minus_best",
        lambda row: row[2].test_accuracy - row[1].best.test_accuracy,
        "1",
        "above the best ingredient's",
    ),
    ("seconds", lambda row: row[2].measurement["seconds"], "s", "wall time, reading included"),
)
