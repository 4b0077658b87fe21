"""Errors of accuracies and of their differences, against simulation and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gnnsoup_hpc.utils.stats import binomial_error, error_below_mean, error_of_mean, paired_error


def test_binomial_error_of_an_accuracy() -> None:
    assert binomial_error(0.5, 100) == 0.05
    assert binomial_error(0.9, 100_000) == pytest.approx(math.sqrt(0.9 * 0.1 / 100_000), rel=1e-3)
    assert binomial_error(1.0, 100) > 0.0


def test_error_below_a_mean_is_that_of_independent_binomials() -> None:
    rng, nodes = np.random.default_rng(0), 1000
    drawn = rng.binomial(nodes, [0.7, 0.8, 0.9], size=(20_000, 3)) / nodes
    differences = drawn[:, 0] - drawn[:, 1:].mean(1)
    assert error_below_mean(0.7, [0.8, 0.9], nodes) == pytest.approx(differences.std(), rel=0.03)


def test_paired_error_counts_only_what_one_alone_gets_right() -> None:
    assert paired_error(9, 16, 100) == 0.05
    assert paired_error(0, 0, 100) == 0.0
    # Four nodes that only one of them gets right are no proof, five are.
    assert 2 * paired_error(4, 0, 100) >= 4 / 100
    assert 2 * paired_error(5, 0, 100) < 5 / 100


def test_paired_error_is_the_spread_of_equals_on_the_same_nodes() -> None:
    rng, nodes = np.random.default_rng(1), 1000
    shared = rng.random((4000, nodes)) < 0.9
    one, other = (np.where(shared, True, rng.random((4000, nodes)) < 0.5) for _ in range(2))
    differences = one.mean(1) - other.mean(1)
    told = [paired_error(int((a & ~b).sum()), int((b & ~a).sum()), nodes) for a, b in zip(one, other, strict=True)]
    assert np.mean(told) == pytest.approx(differences.std(), rel=0.03)


def test_error_of_a_mean() -> None:
    """Student's t of the table: 4.303 for 2 degrees of freedom, 2.776 for 4."""
    assert error_of_mean([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert error_of_mean([1.0, 1.0, 2.0, 3.0, 3.0]) == pytest.approx(2.776 / math.sqrt(5), rel=1e-3)
