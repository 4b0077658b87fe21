"""Barriers by hand, and where the basin ends."""

from __future__ import annotations

import math

import pytest

from gnnsoup_hpc.analysis.diagnosis.basin import compute_barriers, is_collapsed
from gnnsoup_hpc.io.records import EvalResult, Midpoints
from tests.analysis.diagnosis.kit import TASK, diagnosis


def test_a_barrier_is_the_midpoint_against_the_mean_of_its_ends() -> None:
    found = diagnosis(0.8, 0.95)
    low, high, _ = compute_barriers(found, found.variants[0], TASK)
    assert [low.name, high.name] == ["0001", "0002"]
    assert low.fall == pytest.approx(0.1)
    assert high.fall == pytest.approx(-0.05)
    assert low.loss == pytest.approx(0.25)
    assert low.error == TASK.error_below_mean(0.8, [0.9, 0.9], 10_000)


@pytest.mark.parametrize(("beyond", "inside"), [(0.999, True), (1.001, False)])
def test_the_basin_ends_at_twice_the_error(beyond: float, inside: bool) -> None:
    error = TASK.error_below_mean(0.88, [0.9, 0.9], 1000)
    found = diagnosis(0.88, nodes=1000)
    barrier, _ = compute_barriers(found, found.variants[0], TASK)
    assert not barrier.fall > 2 * error
    assert barrier.in_basin
    moved = type(barrier)(barrier.name, barrier.mean, barrier.loss, beyond * 2 * error, error)
    assert moved.in_basin is inside


def test_an_accuracy_above_its_ends_is_in_the_basin() -> None:
    found = diagnosis(0.99)
    assert compute_barriers(found, found.variants[0], TASK)[0].in_basin


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_in_no_basin(loss: float) -> None:
    found = diagnosis(0.9)
    way = Midpoints("as trained", "", {"0001": EvalResult(0.9, loss)}, EvalResult(0.9, loss))
    assert not compute_barriers(found, way, TASK)[0].in_basin
    assert is_collapsed(compute_barriers(found, way, TASK)[-1], TASK)


def test_the_mean_of_all_is_held_against_the_mean_ingredient() -> None:
    found = diagnosis(0.9, 0.9, mean=0.5)
    mean = compute_barriers(found, found.variants[0], TASK)[-1]
    assert mean.fall == pytest.approx(0.4)
    assert mean.error == TASK.error_below_mean(0.5, [0.9] * 3, 10_000)
    assert is_collapsed(mean, TASK)


def test_a_small_fall_is_no_collapse_even_where_it_is_certain() -> None:
    found = diagnosis(0.9, mean=0.885, nodes=1_000_000)
    mean = compute_barriers(found, found.variants[0], TASK)[-1]
    assert not mean.in_basin
    assert not is_collapsed(mean, TASK)
