"""The trials of sweeps in a report: every combination, which one was selected, and how much seeds matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from statistics import mean, stdev
from typing import Any

import numpy as np

from gnnsoup_hpc.config import Job, Trial, expand_grids
from gnnsoup_hpc.errors import advise
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.io.report import Columns
from gnnsoup_hpc.runtime.profiling import subtract_baseline
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils.text_table import align_columns


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


def read_trials(run: RunDir, job: Job, soups: Sequence[Soup]) -> tuple[TriedTrial, ...]:
    """Every trial of the sweeps whose best is among the soups. Raises: RunError where the file of one is damaged."""
    found: list[TriedTrial] = []
    for method, trials in expand_grids(job).items():
        chosen = next((soup for soup in soups if soup.method == method), None)
        if chosen is None:
            continue
        with advise("run `gnnsoup soup JOB`, which makes it again"):
            made = [soup_store.read(path) for path in sorted(run.cells(method).glob("*.h5"))]
        akin = [soup for soup in made if soup.shelf_sha256 == chosen.shelf_sha256]
        for trial in trials:
            wanted = dict(chosen.options) | list_options(trial.job, method)
            soup = next((soup for soup in akin if soup.options == wanted), None)
            found.append(TriedTrial(trial, soup, selected=wanted == chosen.options))
    return tuple(found)


def list_options(job: Job, method: str) -> dict[str, Any]:
    """What the soup of a method says that it was made with."""
    section = getattr(job.soup, method, None)
    return {"seed": job.soup.seed} | (section.model_dump(mode="json") if section is not None else {})


def make_tables(rows: Sequence[TriedTrial]) -> dict[str, tuple[Columns, str]]:
    """Tables of report.h5: `cells`, and `seeds` where a seed is swept; none without a sweep."""
    found: dict[str, tuple[Columns, str]] = {}
    if rows:
        found["cells"] = (_trial_columns(rows), "one row a combination of a sweep")
    if groups := _group_by_seeds(rows):
        found["seeds"] = (_seed_columns(groups), "one row a combination that was made with several seeds")
    return found


_NUMBERS: tuple[tuple[str, Callable[[Soup], float], str, str], ...] = (
    ("validation_accuracy", lambda soup: soup.validation_accuracy, "1", "exact, on validation nodes; NaN = failed"),
    ("test_accuracy", lambda soup: soup.test_accuracy, "1", "exact, on test nodes; nothing is chosen by it"),
    ("seconds", lambda soup: soup.measurement["seconds"], "s", "wall time, reading included"),
    ("peak_host_bytes", lambda soup: soup.measurement["peak_host_bytes"], "B", "peak resident host memory"),
    ("baseline_host_bytes", lambda soup: soup.measurement["baseline_host_bytes"], "B", "the same at the start"),
)


def _trial_columns(rows: Sequence[TriedTrial]) -> Columns:
    """A row a trial; a column a swept key, NaN or empty where a method has it not."""
    selected = np.array([row.selected for row in rows], dtype=np.uint8)
    numbers = {
        name: (np.array([take(row.soup) if row.soup else nan for row in rows]), unit, about)
        for name, take, unit, about in _NUMBERS
    }
    return {
        "method": ([row.trial.method for row in rows], "1", "souping method"),
        **{
            key: (_fill_column([row.values.get(key) for row in rows]), "1", f"value of soup.{key}")
            for key in dict.fromkeys(key for row in rows for key in row.values)
        },
        **numbers,
        "selected": (selected, "1", "1 for the method's soup: the highest validation accuracy"),
    }


def _fill_column(values: Sequence[Any]) -> Any:
    """Numbers, or text where one of the values is none."""
    if any(isinstance(value, str) for value in values):
        return ["" if value is None else str(value) for value in values]
    return np.array([nan if value is None else float(value) for value in values])


@dataclass(frozen=True)
class SeedGroup:
    """The soups of trials that differ in their seed alone; combination: their other values, in words."""

    method: str
    combination: str
    soups: Sequence[Soup]

    def spread(self, role: str) -> tuple[float, float]:
        """Mean and sample standard deviation of the accuracies in a role; NaN where there are too few."""
        values: list[float] = [getattr(soup, f"{role}_accuracy") for soup in self.soups]
        return (mean(values) if values else nan, stdev(values) if len(values) > 1 else nan)


def _group_by_seeds(rows: Sequence[TriedTrial]) -> list[SeedGroup]:
    """Of sweeps that have several seeds."""
    groups: dict[tuple[str, str], list[Soup]] = {}
    for row in rows:
        if "seed" in row.trial.values:
            others = ", ".join(f"{key} = {value}" for key, value in row.trial.values.items() if key != "seed")
            groups.setdefault((row.trial.method, others), []).extend([row.soup] if row.soup else [])
    return [SeedGroup(*key, soups) for key, soups in groups.items()]


def _seed_columns(groups: Sequence[SeedGroup]) -> Columns:
    columns: dict[str, tuple[Any, str, str]] = {
        "method": ([group.method for group in groups], "1", "souping method"),
        "combination": ([group.combination for group in groups], "1", "values but for the seed"),
        "seeds": (np.array([len(group.soups) for group in groups]), "1", "seeds whose soups are there"),
    }
    for role in ("validation", "test"):
        means, deviations = np.array([group.spread(role) for group in groups]).T
        columns[f"{role}_mean"] = (means, "1", f"mean {role} accuracy over the seeds")
        columns[f"{role}_deviation"] = (deviations, "1", "its standard deviation (sample)")
    return columns


def list_trials(rows: Sequence[TriedTrial]) -> list[str]:
    """What people read of the sweeps; nothing without one."""
    found: list[str] = []
    for method in dict.fromkeys(row.trial.method for row in rows):
        own = [row for row in rows if row.trial.method == method]
        found += ["", f"sweep of {method}: {len(own)} combinations; * = its soup, the highest validation accuracy"]
        head = ("", *own[0].trial.values, "validation", "test", "seconds", "peak MiB")
        found += align_columns([head, *(_make_row(row) for row in own)])
        if groups := _group_by_seeds(own):
            found += ["", f"{method} over seeds: mean ± standard deviation"]
            found += align_columns([("combination", "seeds", "validation", "test"), *map(_make_seed_row, groups)])
    return found


def _make_row(row: TriedTrial) -> tuple[str, ...]:
    values = [f"{value}" for value in row.trial.values.values()]
    if row.soup is None:
        return ("", *values, "failed", "-", "-", "-")
    peak, seconds = subtract_baseline(row.soup.measurement), row.soup.measurement["seconds"]
    accuracies = f"{row.soup.validation_accuracy:.4f}", f"{row.soup.test_accuracy:.4f}"
    return ("*" if row.selected else "", *values, *accuracies, f"{seconds:.2f}", f"{peak / 2**20:.1f}")


def _make_seed_row(group: SeedGroup) -> tuple[str, ...]:
    spreads = (f"{middle:.4f} ± {away:.4f}" for middle, away in map(group.spread, ("validation", "test")))
    return group.combination or "-", str(len(group.soups)), *spreads
