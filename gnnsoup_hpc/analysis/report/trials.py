"""The trials of sweeps in a report: every combination, which one was selected, and how much seeds matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import mean, stdev
from typing import Any

from gnnsoup_hpc.config import Job, Trial, expand_grids
from gnnsoup_hpc.errors import advise
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.records import Soup
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


def group_by_seeds(rows: Sequence[TriedTrial]) -> dict[tuple[str, str], list[Soup]]:
    """Of sweeps that have several seeds: the soups by their method and their other values, in words."""
    groups: dict[tuple[str, str], list[Soup]] = {}
    for row in rows:
        if "seed" in row.trial.values:
            others = ", ".join(f"{key} = {value}" for key, value in row.trial.values.items() if key != "seed")
            groups.setdefault((row.trial.method, others), []).extend([row.soup] if row.soup else [])
    return groups


def compute_spread(soups: Sequence[Soup], role: str) -> tuple[float, float]:
    """Mean and sample standard deviation of the accuracies in a role; NaN where there are too few."""
    values: list[float] = [getattr(soup, f"{role}_accuracy") for soup in soups]
    return (mean(values) if values else nan, stdev(values) if len(values) > 1 else nan)


def list_trials(rows: Sequence[TriedTrial]) -> list[str]:
    """What people read of the sweeps; nothing without one."""
    found: list[str] = []
    for method in dict.fromkeys(row.trial.method for row in rows):
        own = [row for row in rows if row.trial.method == method]
        found += ["", f"sweep of {method}: {len(own)} combinations; * = its soup, the highest validation accuracy"]
        head = ("", *own[0].trial.values, "validation", "test", "seconds", "peak MiB")
        found += align_columns([head, *(_make_row(row) for row in own)])
        if groups := group_by_seeds(own):
            found += ["", f"{method} over seeds: mean ± standard deviation"]
            seeds = (_make_seed_row(combination, soups) for (_, combination), soups in groups.items())
            found += align_columns([("combination", "seeds", "validation", "test"), *seeds])
    return found


def _make_row(row: TriedTrial) -> tuple[str, ...]:
    values = [f"{value}" for value in row.trial.values.values()]
    if row.soup is None:
        return ("", *values, "failed", "-", "-", "-")
    peak, seconds = subtract_baseline(row.soup.measurement), row.soup.measurement["seconds"]
    accuracies = f"{row.soup.validation_accuracy:.4f}", f"{row.soup.test_accuracy:.4f}"
    return ("*" if row.selected else "", *values, *accuracies, f"{seconds:.2f}", f"{peak / 2**20:.1f}")


def _make_seed_row(combination: str, soups: Sequence[Soup]) -> tuple[str, ...]:
    spreads = (compute_spread(soups, role) for role in ("validation", "test"))
    return combination or "-", str(len(soups)), *(f"{middle:.4f} ± {away:.4f}" for middle, away in spreads)
