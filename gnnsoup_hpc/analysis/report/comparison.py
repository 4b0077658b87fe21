"""A soup beside the best ingredient, on the same test nodes."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.types import ByteArray


@dataclass(frozen=True)
class Comparison:
    """A soup's test score less the best ingredient's, and twice its standard error.

    paired: from the nodes that only one of the two gets right, or from equal bootstrap samples; else as if each were
    measured on nodes of its own, which is more than the error, or not known.
    """

    difference: float
    error: float
    paired: bool

    @property
    def gains(self) -> bool:
        """Whether the soup is better beyond the error."""
        return self.difference > self.error

    @property
    def loses(self) -> bool:
        """Whether the soup is worse beyond the error."""
        return self.difference < -self.error

    @property
    def word(self) -> str:
        """Better or worse beyond the error, else empty."""
        return "better" if self.gains else "worse" if self.loses else ""


def compare_with_best(run: Contents, soup: Soup) -> Comparison:
    """From the soup's own file; one of an older version has no pairs, but that of the method `best` may help."""
    best, nodes = run.best, run.test_nodes
    difference = score(run.task, soup.test_accuracy) - score(run.task, best.test_accuracy)
    if not run.task.counts_hits:
        error = 2.0 * run.task.paired_spread(soup.judged.test_draws, best.judged.test_draws)
        return Comparison(difference, error, paired=isfinite(error))
    right, pair = _find_right_of_best(run), soup.paired
    if pair is not None and pair.best == f"{best.index:04d}":
        alone, of_best = pair.only_soup, pair.only_best
    elif right is not None and soup.test_right is not None:
        pairs = (soup.test_right & ~right, right & ~soup.test_right)
        alone, of_best = (int(np.bitwise_count(bits).sum()) for bits in pairs)
    else:
        error = run.task.error_below_mean(soup.test_accuracy, [best.test_accuracy], nodes)
        return Comparison(difference, 2.0 * error, paired=False)
    return Comparison(difference, 2.0 * run.task.paired_error(alone, of_best, nodes), paired=True)


def _find_right_of_best(run: Contents) -> ByteArray | None:
    """Test nodes that the best ingredient gets right, if a soup is that ingredient and no more."""
    soup, name = run.soup("best"), f"{run.best.index:04d}"
    is_it = soup is not None and soup.ingredients[int(soup.mixture.alpha[0].argmax())] == name
    return soup.test_right if soup is not None and is_it else None
