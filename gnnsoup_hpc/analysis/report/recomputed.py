"""What recomputing running statistics changed, of models with batch norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.io.records import Recomputed, Soup
from gnnsoup_hpc.utils.text_table import align_columns

_HEAD = ("method", "validation: mixed", "recomputed", "test: mixed", "recomputed", "seconds")
_ABOUT = {
    "seconds": ("s", "of mixing and recomputing statistics; in the method's seconds"),
    "validation_mixed": ("1", "metric on validation nodes with mixed running statistics"),
    "test_mixed": ("1", "metric on test nodes with mixed running statistics"),
    "validation_anew": ("1", "metric on validation nodes with recomputed ones, of an ingredient too"),
    "test_anew": ("1", "metric on test nodes with recomputed ones, of an ingredient too"),
    "validation_error": ("1", "standard error of validation_anew - validation_mixed, on the same nodes"),
}


def _list_soups(run: Contents) -> list[tuple[Soup, Recomputed]]:
    return [(soup, soup.recomputed) for soup in run.soups if soup.recomputed is not None]


def list_recomputed(run: Contents) -> list[str]:
    """Lines; none where no soup has statistics."""
    rows = [
        (
            soup.method,
            f"{found.validation_mixed:.4f}",
            f"{found.validation_anew:.4f}",
            f"{found.test_mixed:.4f}",
            f"{found.test_anew:.4f}",
            f"{found.seconds:.2f}",
        )
        for soup, found in _list_soups(run)
    ]
    if not rows:
        mixed = any(soup.options.get("recompute") == "none" for soup in run.soups)
        return (
            ["", 'running statistics of batch norm are mixed as weights are (soup.recompute = "none")'] if mixed else []
        )
    return [
        "",
        "running statistics of batch norm, mixed as weights are or recomputed over all nodes, which soups have; an",
        "ingredient as it is has those that it was trained with:",
        *align_columns([_HEAD, *rows]),
    ]


def make_recomputed_columns(run: Contents) -> Columns | None:
    """The same for report.h5; None where no soup has statistics."""
    rows = _list_soups(run)
    if not rows:
        return None
    columns: Columns = {"method": ([soup.method for soup, _ in rows], "1", "souping method")}
    for field in fields(Recomputed):
        values = np.array([getattr(found, field.name) for _, found in rows])
        columns = dict(columns) | {field.name: (values, *_ABOUT[field.name])}
    return columns


def judge_recomputed(run: Contents) -> Iterator[str]:
    """A sentence where recomputing makes soups worse, and one where it alone would lift the best ingredient."""
    yield from _name_lowered(run)
    best = run.soup("best")
    if best is None or best.recomputed is None:
        return
    before, after = best.recomputed.test_mixed, best.recomputed.test_anew
    if score(run.task, after) - score(run.task, before) > run.error_of(run.best):
        yield (
            f"With recomputed running statistics the best ingredient alone has test {run.metric} {after:.4f}, and"
            f" {before:.4f} with those that it was trained with: that much of a soup's gain is not of mixing."
        )


def _name_lowered(run: Contents) -> Iterator[str]:
    """Soups that are worse on validation nodes with recomputed statistics than with mixed ones, beyond the error.

    Not those that are one ingredient: these keep their own.
    """
    lowered = []
    for soup, found in _list_soups(run):
        mixed, anew, own = found.validation_mixed, found.validation_anew, soup.validation_accuracy
        fall = score(run.task, mixed) - score(run.task, anew)
        if fall > 2.0 * found.validation_error and abs(own - anew) < abs(own - mixed):
            lowered.append(f"{soup.method} ({mixed:.4f} mixed, {anew:.4f} recomputed)")
    if lowered:
        worse = "lowers" if run.task.higher_is_better else "raises"
        yield (
            f"Recomputing running statistics {worse} the validation {run.metric} of {', '.join(lowered)}, beyond the"
            ' error: set soup.recompute = "none", which keeps mixed ones.'
        )
