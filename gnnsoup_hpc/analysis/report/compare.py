"""Several runs side by side; those that differ in their seeds alone, as mean and spread of each method's accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from gnnsoup_hpc.analysis.report.groups import GroupKey, differences, group_runs
from gnnsoup_hpc.analysis.report.layout import align_columns
from gnnsoup_hpc.analysis.report.rows import Contents, best_ingredient, contents
from gnnsoup_hpc.analysis.report.table import spread
from gnnsoup_hpc.utils.stats import FEWEST_RUNS, error_of_mean

_EQUAL = 1e-9  # differences of accuracies that are equal but for rounding
_SHOWN = 4  # settings in the table of runs that differ


def comparison(roots: Sequence[Path]) -> str:
    """Tables of the runs in some folders; a folder that is given twice counts once."""
    return compare_runs([contents(root) for root in roots])


def compare_runs(runs: Sequence[Contents]) -> str:
    """Tables of runs: of those that differ in their seeds alone a mean, of others a line a run."""
    groups, repeats = group_runs(runs)
    lines = list(repeats)
    if len(groups) > 1:
        lines += ["", *_side_by_side(groups)]
    for group in groups:
        if len(group) > 1:
            lines += ["", *_averaged([one.run for one in group])]
    return "\n".join(lines).strip("\n")


def _side_by_side(groups: Sequence[Sequence[GroupKey]]) -> list[str]:
    """A line a run: what the groups differ in, and the test accuracies."""
    runs = [one for group in groups for one in group]
    keys = differences(groups)
    methods = list(dict.fromkeys(soup.method for one in runs for soup in one.run.soups))
    head = ("run", *keys[:_SHOWN], "mean ingredient", *methods)
    rows = [(str(one.run.run.root), *map(one.shown, keys[:_SHOWN]), *_tests(one.run, methods)) for one in runs]
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    about = f"These runs differ in more than their seeds ({', '.join(keys[:_SHOWN])}{more}): no mean is taken over all."
    return [about, "", *align_columns([head, *rows]), "", "test accuracies; -: the run has no such soup."]


def _tests(run: Contents, methods: Sequence[str]) -> list[str]:
    soups = [run.soup(method) for method in methods]
    tests = [f"{soup.test_accuracy:.4f}" if soup else "-" for soup in soups]
    return [f"{_mean_tests([run])[0]:.4f}", *tests]


def _averaged(runs: Sequence[Contents]) -> list[str]:
    """A table of the methods that all of these runs have, mean ± standard deviation over runs."""
    common = [soup.method for soup in runs[0].soups if all(run.soup(soup.method) for run in runs)]
    head = ("", "validation", "test", "test - mean ingredient", "test - best", "runs above best", "error", "verdict")
    rows = [_ingredients_row(runs), *(_method_row(runs, method) for method in common)]
    missing = sorted({soup.method for run in runs for soup in run.soups} - set(common))
    about = (
        "±: standard deviation over runs. error: half of the 95 % interval of the mean of test - best (Student's t),"
        " each run's\ntwo measured on the same nodes; a mean beyond it is a gain or a loss, and none is judged of fewer"
        f" than {FEWEST_RUNS} runs."
    )
    left_out = [f"Not in all of these runs, and so in no mean: {', '.join(missing)}."] if missing else []
    named = f"{len(runs)} runs: {', '.join(str(run.run.root) for run in runs)}"
    return [named, "", *align_columns([head, *rows]), "", about, *left_out]


def _ingredients_row(runs: Sequence[Contents]) -> tuple[str, ...]:
    validations = [mean(i.validation_accuracy for i in run.ingredients) for run in runs]
    return "mean ingredient", spread(validations), spread(_mean_tests(runs)), "", "", "", "", ""


def _method_row(runs: Sequence[Contents], method: str) -> tuple[str, ...]:
    soups = [soup for run in runs if (soup := run.soup(method))]
    tests = [soup.test_accuracy for soup in soups]
    gains = [test - base for test, base in zip(tests, _mean_tests(runs), strict=True)]
    above = [test - best_ingredient(run).test_accuracy for test, run in zip(tests, runs, strict=True)]
    wins = f"{sum(gain > 0 for gain in above)} of {len(runs)}"
    validations = spread([s.validation_accuracy for s in soups])
    return method, validations, spread(tests), _signed(gains), _signed(above), wins, *judge(above)


def judge(differences: Sequence[float]) -> tuple[str, str]:
    """The error of the mean of paired differences, and what the mean is: gain, loss, or neither."""
    if not any(differences):
        return "", "the same"
    if len(differences) < FEWEST_RUNS:
        return "", "too few runs"
    if max(differences) - min(differences) < _EQUAL:
        return "", "equal in all runs"  # no spread, so nothing to judge a mean by
    error, middle = error_of_mean(differences), mean(differences)
    verdict = "within its error" if abs(middle) <= error else "gain" if middle > 0 else "loss"
    return f"{error:.4f}", verdict


def _mean_tests(runs: Sequence[Contents]) -> list[float]:
    return [mean(i.test_accuracy for i in run.ingredients) for run in runs]


def _signed(values: Sequence[float]) -> str:
    """Mean ± standard deviation of differences."""
    return spread(values) if mean(values) < 0 else f"+{spread(values)}"
