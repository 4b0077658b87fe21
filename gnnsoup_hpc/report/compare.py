"""Several runs side by side, for example one a seed: mean and spread of each method's accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.report.layout import aligned
from gnnsoup_hpc.report.rows import Contents, best_ingredient, contents
from gnnsoup_hpc.report.table import spread
from gnnsoup_hpc.significance import FEWEST_RUNS, error_of_mean


def comparison(roots: Sequence[Path]) -> str:
    """A table of the methods that all runs have, mean ± standard deviation over runs.

    Raises: RunError where the runs have no method in common.
    """
    runs = [contents(root) for root in roots]
    common = [soup.method for soup in runs[0].soups if all(run.soup(soup.method) for run in runs)]
    if not common:
        raise RunError(f"the runs {', '.join(map(str, roots))} have no method in common")
    head = ("", "validation", "test", "test - mean ingredient", "test - best", "runs above best", "error", "verdict")
    rows = [_ingredients_row(runs), *(_method_row(runs, method) for method in common)]
    about = (
        "±: standard deviation over runs. error: half of the 95 % interval of the mean of test - best (Student's t),"
        " each run's\ntwo measured on the same nodes; a mean beyond it is a gain or a loss, and none is judged of fewer"
        f" than {FEWEST_RUNS} runs."
    )
    return "\n".join([f"{len(runs)} runs: {', '.join(map(str, roots))}", "", *aligned([head, *rows]), "", about])


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
    return method, validations, spread(tests), _signed(gains), _signed(above), wins, *judged(above)


def judged(differences: Sequence[float]) -> tuple[str, str]:
    """The error of the mean of paired differences, and what the mean is: gain, loss, or neither."""
    if not any(differences):
        return "", "the same"
    if len(differences) < FEWEST_RUNS:
        return "", "too few runs"
    error, middle = error_of_mean(differences), mean(differences)
    verdict = "within its error" if abs(middle) <= error else "gain" if middle > 0 else "loss"
    return f"{error:.4f}", verdict


def _mean_tests(runs: Sequence[Contents]) -> list[float]:
    return [mean(i.test_accuracy for i in run.ingredients) for run in runs]


def _signed(values: Sequence[float]) -> str:
    """Mean ± standard deviation of differences."""
    return spread(values) if mean(values) < 0 else f"+{spread(values)}"
