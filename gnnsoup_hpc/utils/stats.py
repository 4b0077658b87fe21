"""Errors of accuracies and of their differences: what keeps a difference within its error from being called a gain."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import stdev

from scipy.special import stdtrit  # Student's t, inverted: scipy.stats has it too, and takes a second to import

FEWEST_RUNS = 3  # of which a mean difference is judged


def binomial_error(accuracy: float, nodes: int) -> float:
    """Standard error of an accuracy that was measured on that many nodes.

    Two nodes right and two wrong are added, so that it is not zero where every node is right (Agresti and Coull, The
    American Statistician 52(2), 1998).
    """
    smoothed = (accuracy * nodes + 2.0) / (nodes + 4.0)
    return sqrt(smoothed * (1.0 - smoothed) / nodes)


def error_below_mean(accuracy: float, ends: Sequence[float], nodes: int) -> float:
    """Standard error of `accuracy - mean(ends)`, each a binomial of its own.

    All are measured on the same nodes and rise and fall together, so the error is, if anything, smaller than this.
    """
    variance = sum(binomial_error(end, nodes) ** 2 for end in ends) / len(ends) ** 2
    return sqrt(binomial_error(accuracy, nodes) ** 2 + variance)


def paired_error(only_one: int, only_other: int, nodes: int) -> float:
    """Standard error of the difference of two accuracies on the same nodes, were both models equally good.

    Nodes on which only one of the two is right decide: McNemar, Psychometrika 12(2), 1947.
    """
    return sqrt(only_one + only_other) / nodes


def error_of_mean(differences: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of at least two differences.

    The standard error times Student's t, which is 4.3 for three differences, 2.8 for five and 2 for many: few of them
    tell little of their own spread (Student, Biometrika 6(1), 1908).
    """
    count = len(differences)
    return float(stdtrit(count - 1, 0.975)) * stdev(differences) / sqrt(count)
