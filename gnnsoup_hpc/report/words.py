"""Verdicts: what the numbers say, in words, and never a gain that lies within its error."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import numpy as np
import torch

from gnnsoup_hpc.diagnosis.advice import verdict
from gnnsoup_hpc.diagnosis.basin import COLLAPSE
from gnnsoup_hpc.records import ByteArray, Soup
from gnnsoup_hpc.report.rows import Contents, best_ingredient
from gnnsoup_hpc.significance import binomial_error, error_below_mean, paired_error

DISGUISE = 0.99  # the least weight, in every group, of the one ingredient that a soup is


def verdicts(run: Contents) -> list[str]:
    """One sentence each on what to notice about the run's soups, then the diagnosis's."""
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
        f" twice the binomial error of {run.test_nodes} test nodes is {_points(error)}."
    )
    for soup in run.soups:
        if soup.method != "best":
            yield _against_best(run, soup)
            yield from _collapse(run, soup)
    yield from _diagnosed(run)


def _diagnosed(run: Contents) -> Iterator[str]:
    if run.diagnosis is None:
        yield f"Whether the ingredients lie in one basin is not known: run `gnnsoup diagnose {run.run.root}`."
        return
    yield from verdict(run.diagnosis, run.job)


def _against_best(run: Contents, soup: Soup) -> str:
    """How one soup stands to the best ingredient on test nodes."""
    best, name = best_ingredient(run), _name(soup)
    only = disguised(soup)
    if only == f"{best.index:04d}":
        return f"{name} is the best ingredient in disguise: all but a hundredth of the weight, or more, is {only}'s."
    whose = f" (it is ingredient {only} in disguise)" if only else ""
    difference, error = soup.test_accuracy - best.test_accuracy, 2.0 * _error(run, soup)
    if difference == 0.0:
        return f"{name} does exactly as well as the best ingredient{whose}."
    if abs(difference) > error:
        did = "beats" if difference > 0 else "loses to"
        return f"{name} {did} the best ingredient by {_points(abs(difference))}{whose}; the error is {_points(error)}."
    place = "above" if difference > 0 else "below"
    return (
        f"{name} is {_points(abs(difference))} {place} the best ingredient{whose}, a difference within its error of"
        f" {_points(error)}."
    )


def _collapse(run: Contents, soup: Soup) -> Iterator[str]:
    """Said aloud where a mixture of weights is far worse than what it is made of."""
    tests = [ingredient.test_accuracy for ingredient in run.ingredients]
    below = fmean(tests) - soup.test_accuracy
    error = 2.0 * error_below_mean(soup.test_accuracy, tests, run.test_nodes)
    if soup.mixture.of == "weights" and below > max(COLLAPSE, error):
        yield f"{_name(soup)} collapsed: {_points(below)} below the mean ingredient, {fmean(tests):.4f}."


def disguised(soup: Soup) -> str:
    """The ingredient that has all but a hundredth of the weight in every group; empty where there is none.

    Weights that are no shares are: its own is 1, and the others' are 0, within a hundredth.
    """
    alpha = soup.mixture.alpha
    columns = set(alpha.argmax(1).tolist())
    if soup.mixture.of != "weights" or len(columns) > 1:
        return ""
    alone = torch.zeros_like(alpha)
    alone[:, list(columns)] = 1.0
    # Sums on both sides: shares that leave 1 by a hundredth give as much to others.
    if not bool((alpha - alone).abs().sum(1).max() <= 2.0 * (1.0 - DISGUISE) + 1e-12):
        return ""
    return str(soup.ingredients[columns.pop()])


def _error(run: Contents, soup: Soup) -> float:
    """Standard error of a soup's test accuracy less the best ingredient's.

    From the nodes that only one of the two gets right, where both are known node by node; else, as if either were
    measured on nodes of its own, which is more than the error.
    """
    best, right = best_ingredient(run), _right_of_best(run)
    if right is None or soup.test_right is None:
        return error_below_mean(soup.test_accuracy, [best.test_accuracy], run.test_nodes)
    return paired_error(_count(soup.test_right & ~right), _count(right & ~soup.test_right), run.test_nodes)


def _right_of_best(run: Contents) -> ByteArray | None:
    """Test nodes that the best ingredient gets right, if a soup is that ingredient and no more."""
    soup, name = run.soup("best"), f"{best_ingredient(run).index:04d}"
    is_it = soup is not None and soup.ingredients[int(soup.mixture.alpha[0].argmax())] == name
    return soup.test_right if soup is not None and is_it else None


def _count(bits: ByteArray) -> int:
    return int(np.unpackbits(bits).sum())


def _name(soup: Soup) -> str:
    return "The ensemble" if soup.mixture.of == "predictions" else f"The {soup.method} soup"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"
