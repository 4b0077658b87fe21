"""The trials of sweeps in a report: every combination, which one was selected, and how much seeds matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from statistics import mean, stdev
from typing import Any

import numpy as np

from gnnsoup_hpc.config import Job, Trial, expand_grids
from gnnsoup_hpc.errors import FileError, RunError
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

    def number(self, take: Callable[[Soup], float]) -> float:
        """A number of its soup, or NaN."""
        return nan if self.soup is None else take(self.soup)


def read_trials(run: RunDir, job: Job, soups: Sequence[Soup]) -> tuple[TriedTrial, ...]:
    """Every trial of the sweeps whose best is among the soups. Raises: RunError where the file of one is damaged."""
    found: list[TriedTrial] = []
    for method, trials in expand_grids(job).items():
        chosen = next((soup for soup in soups if soup.method == method), None)
        if chosen is None:
            continue
        try:
            made = [soup_store.read(path) for path in sorted(run.cells(method).glob("*.h5"))]
        except FileError as error:
            raise RunError(f"{error}: run `gnnsoup soup JOB`, which makes it again") from None
        akin = [soup for soup in made if soup.shelf_sha256 == chosen.shelf_sha256]
        for trial in trials:
            wanted = dict(chosen.options) | list_options(trial)
            soup = next((soup for soup in akin if soup.options == wanted), None)
            found.append(TriedTrial(trial, soup, selected=wanted == chosen.options))
    return tuple(found)


def find_trials(job: Job, method: str) -> tuple[Trial, ...]:
    """The trials of a method; none where it is not swept."""
    return next((trials for name, trials in expand_grids(job).items() if name == method), ())


def list_options(trial: Trial) -> dict[str, Any]:
    """What the soup of a trial says that it was made with."""
    soup = trial.job.soup
    own: dict[str, Any] = getattr(soup, trial.method).model_dump(mode="json")
    return {"seed": soup.seed} | own


def make_tables(rows: Sequence[TriedTrial]) -> dict[str, tuple[Columns, str]]:
    """Tables of report.h5: `cells`, and `seeds` where a seed is swept; none without a sweep."""
    found: dict[str, tuple[Columns, str]] = {}
    if rows:
        found["cells"] = (_trial_columns(rows), "one row a combination of a sweep")
    if groups := list(_group_by_seeds(rows)):
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
    keys = dict.fromkeys(_full_key(row.trial, key) for row in rows for key in row.trial.values)
    selected = np.array([row.selected for row in rows], dtype=np.uint8)
    return {
        "method": ([row.trial.method for row in rows], "1", "souping method"),
        **{key: (_list_values(rows, key), "1", f"value of soup.{key}") for key in keys},
        **{name: (np.array([row.number(take) for row in rows]), unit, about) for name, take, unit, about in _NUMBERS},
        "selected": (selected, "1", "1 for the method's soup: the highest validation accuracy"),
    }


def _full_key(trial: Trial, key: str) -> str:
    """A swept key as a field of [soup]."""
    return key if key == "seed" else f"{trial.method}.{key}"


def _list_values(rows: Sequence[TriedTrial], name: str) -> Any:
    """The values of a swept key: numbers, or text where one of them is none."""
    found = [{_full_key(row.trial, key): value for key, value in row.trial.values.items()}.get(name) for row in rows]
    if any(isinstance(value, str) for value in found):
        return ["" if value is None else str(value) for value in found]
    return np.array([nan if value is None else float(value) for value in found])


def _group_by_seeds(rows: Sequence[TriedTrial]) -> Iterator[list[TriedTrial]]:
    """Trials that differ in their seed alone, of sweeps that have several."""
    groups: dict[tuple[Any, ...], list[TriedTrial]] = {}
    for row in rows:
        if "seed" in row.trial.values:
            groups.setdefault((row.trial.method, _list_but_seed(row)), []).append(row)
    yield from groups.values()


def _list_but_seed(row: TriedTrial) -> str:
    return ", ".join(f"{key} = {value}" for key, value in row.trial.values.items() if key != "seed")


def _seed_columns(groups: Sequence[Sequence[TriedTrial]]) -> Columns:
    columns: dict[str, tuple[Any, str, str]] = {
        "method": ([group[0].trial.method for group in groups], "1", "souping method"),
        "combination": ([_list_but_seed(group[0]) for group in groups], "1", "values but for the seed"),
        "seeds": (np.array([len(_list_soups(group)) for group in groups]), "1", "seeds whose soups are there"),
    }
    for role in ("validation", "test"):
        spread = [_spread(role, _list_soups(group)) for group in groups]
        columns[f"{role}_mean"] = (np.array([m for m, _ in spread]), "1", f"mean {role} accuracy over the seeds")
        columns[f"{role}_deviation"] = (np.array([d for _, d in spread]), "1", "its standard deviation (sample)")
    return columns


def _list_soups(group: Sequence[TriedTrial]) -> list[Soup]:
    return [row.soup for row in group if row.soup is not None]


def _spread(role: str, soups: Sequence[Soup]) -> tuple[float, float]:
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
        if groups := list(_group_by_seeds(own)):
            found += ["", f"{method} over seeds: mean ± standard deviation"]
            found += align_columns(
                [("combination", "seeds", "validation", "test"), *(_make_seed_row(group) for group in groups)]
            )
    return found


def _make_row(row: TriedTrial) -> tuple[str, ...]:
    values = [f"{value}" for value in row.trial.values.values()]
    if row.soup is None:
        return ("", *values, "failed", "-", "-", "-")
    peak, seconds = subtract_baseline(row.soup.measurement), row.soup.measurement["seconds"]
    accuracies = f"{row.soup.validation_accuracy:.4f}", f"{row.soup.test_accuracy:.4f}"
    return ("*" if row.selected else "", *values, *accuracies, f"{seconds:.2f}", f"{peak / 2**20:.1f}")


def _make_seed_row(group: Sequence[TriedTrial]) -> tuple[str, ...]:
    soups = _list_soups(group)
    spreads = [_spread(role, soups) for role in ("validation", "test")]
    return (
        _list_but_seed(group[0]) or "-",
        str(len(soups)),
        *(f"{middle:.4f} ± {away:.4f}" for middle, away in spreads),
    )
