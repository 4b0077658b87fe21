"""Verdicts: what the numbers say, in words, and never a gain that lies within its error."""

from __future__ import annotations

from collections.abc import Iterator

from gnnsoup_hpc.measure import binomial_error
from gnnsoup_hpc.records import Soup
from gnnsoup_hpc.report.rows import Contents, best_ingredient


def verdicts(run: Contents) -> list[str]:
    """One sentence each on what to notice about the run's soups."""
    return list(_sentences(run))


def _sentences(run: Contents) -> Iterator[str]:
    for reason in run.soups[0].left_out:
        yield f"Left out: {reason}."
    if len(run.ingredients) == 1:
        yield "There is one ingredient, so there is nothing to mix: every soup is that ingredient."
        return
    best = best_ingredient(run)
    error = 2.0 * binomial_error(best.test_accuracy, run.test_nodes)
    yield (
        f"The best ingredient on validation is {best.index:04d}, with test accuracy {best.test_accuracy:.4f};"
        f" twice the binomial error of {run.test_nodes} test nodes is {100 * error:.2f} points."
    )
    for soup in run.soups:
        if soup.method != "best":
            yield _against(soup, best.test_accuracy, error)


def _against(soup: Soup, best: float, error: float) -> str:
    """How one soup stands to the best ingredient on test nodes."""
    name = "The ensemble" if soup.mixture.of == "predictions" else f"The {soup.method} soup"
    difference = soup.test_accuracy - best
    if difference == 0.0:
        return f"{name} does exactly as well as the best ingredient."
    points = f"{abs(100 * difference):.2f} points"
    if abs(difference) > error:
        return f"{name} {'beats' if difference > 0 else 'loses to'} the best ingredient by {points}."
    place = "above" if difference > 0 else "below"
    return f"{name} is {points} {place} the best ingredient, a difference within that error."
