"""What is said of each case, and what is not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.evaluation.tasks import Task
from gnnsoup_hpc.io.records import Diagnosis, EvalResult, Midpoints
from tests.analysis.diagnosis.kit import TASK, diagnosis
from tests.error_rate import ErrorRate

JOB = Job(name="x")


def said(found: Diagnosis, features: str = "standardise", task: Task = TASK, align: str = "none") -> str:
    return "\n".join(verdict(found, Job(name="x", graph={"features": features}, soup={"align": align}), task))


def match(found: Diagnosis, halfway: float, mean: float) -> Diagnosis:
    """With midpoints of units matched by weights, all alike."""
    named = dict.fromkeys(found.variants[0].halfway, EvalResult(halfway, 0.5))
    way = Midpoints("units matched by weights", 'soup.align = "weights"', named, EvalResult(mean, 0.5))
    return replace(found, variants=(*found.variants, way))


def start_apart(found: Diagnosis) -> Diagnosis:
    return replace(
        found, ingredients=tuple(replace(each, initial_sha256=each.ingredient) for each in found.ingredients)
    )


def test_a_run_in_one_basin_gets_no_advice() -> None:
    (line,) = verdict(diagnosis(0.9, 0.899), JOB, TASK)
    assert line.startswith(
        "One basin: all 3 ingredients lie in one basin with the best, 0000. The lowest midpoint, with 0002"
    )
    assert "0.10 points below the mean of its ends" in line
    assert "Smaller falls" not in line


def test_few_validation_nodes_tell_little_and_it_is_said() -> None:
    (line,) = verdict(diagnosis(0.9, 0.8, mean=0.9, nodes=30), JOB, TASK)
    assert "Smaller falls cannot be detected with 30 validation nodes." in line


def test_a_collapse_is_said_with_its_figures() -> None:
    text = said(diagnosis(0.9, 0.5, 0.6, mean=0.45))
    assert "2 of 4 ingredients are not in one basin with the best, 0000: 0002, 0003." in text
    assert "The midpoint with 0002 is 40.00 points below the mean of its ends" in text
    assert (
        "The mean of all as trained, which is the uniform soup unless the job aligns hidden units, collapses to 0.4500,"
        " 45.00 points below the mean ingredient." in text
    )
    assert "One basin" not in text


def test_a_mean_of_all_that_falls_alone_is_seen() -> None:
    text = said(diagnosis(0.9, 0.9, mean=0.6))
    assert "each midpoint with the best ingredient, 0000, holds, but the mean of all does not" in text
    assert "collapses to 0.6000" in text


def test_shared_starts_are_told_from_different_ones() -> None:
    found = diagnosis(0.5)
    assert "They share their initial state" in said(found)
    assert "train.trunk_epochs" in said(found)
    apart = start_apart(found)
    assert "They started from 2 different initial states" in said(apart)
    assert 'soup.align = "weights"' in said(match(apart, 0.9, 0.9))
    assert "soup.align" not in said(apart)  # a model of which no unit may be permuted
    assert "train from one initial state (one train.seed)" in said(apart)
    own = Job(name="x", train={"start": "own"})
    assert 'train.start = "shared", and one train.seed' in "\n".join(verdict(apart, own, TASK))
    assert "They share" not in said(apart)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ("none", "Features are as the source has them, not standardised"),
        ("row-normalise", "Features are row-normalised"),
    ],
)
def test_features_that_are_not_standardised_are_named(features: str, words: str) -> None:
    assert words in said(diagnosis(0.5), features)
    assert words not in said(diagnosis(0.9), features)  # a run in one basin is left alone
    assert "Features are" not in said(diagnosis(0.5))


def test_a_high_learning_rate_is_named_where_an_ingredient_outside_has_it() -> None:
    found = diagnosis(0.5, 0.9)
    assert "is high for Adam" not in said(found)
    fast = replace(found, ingredients=tuple(replace(i, learning_rate=0.05) for i in found.ingredients))
    assert "A learning rate of 0.05 is high for Adam: lower it to 0.005 or less." in said(fast)
    first, outside, inside = found.ingredients
    only_inside = replace(found, ingredients=(first, outside, replace(inside, learning_rate=0.05)))
    assert "is high for Adam" not in said(only_inside)


def test_an_ingredient_that_is_broken_or_weak_is_named() -> None:
    found = diagnosis(0.9, 0.9)
    first, second, third = found.ingredients
    broken = replace(found, ingredients=(first, replace(second, accuracy=0.0, loss=math.nan), third))
    assert "Ingredient 0001 gives scores that are not finite (learning rate 0.005, 60 epochs)" in said(broken)
    weak = replace(found, ingredients=(first, second, replace(third, accuracy=0.7, loss=1.0)))
    assert "Ingredient 0002 alone is 20.00 points below the best one" in said(weak)
    assert "Ingredient 0002" not in said(replace(weak, nodes=10))  # two nodes are no proof


def test_what_lining_up_helps_is_said_with_its_setting() -> None:
    found = diagnosis(0.5, mean=0.45)
    way = Midpoints("units aligned", "soup.align = ...", {"0001": EvalResult(0.9, 0.5)}, EvalResult(0.88, 0.5))
    text = said(replace(found, variants=(*found.variants, way)))
    assert "With units aligned, 0 are not in one basin with the best (as trained: 1)" in text
    assert "has 0.8800 (as trained: 0.4500): set soup.align = ..." in text
    worse = replace(way, mean=EvalResult(0.4, 2.0))
    assert ": set" not in said(replace(found, variants=(*found.variants, worse))).replace(": set graph", "")


def test_one_ingredient_and_what_was_left_out() -> None:
    found = diagnosis(0.9)
    alone = replace(found, ingredients=found.ingredients[:1], variants=(), left_out=("0001.h5 is damaged",))
    assert verdict(alone, JOB, TASK) == [
        "Left out: 0001.h5 is damaged.",
        "There is one ingredient, so there is nothing to mix and no basin to share.",
    ]


def test_what_the_job_does_already_is_no_advice() -> None:
    found = match(start_apart(diagnosis(0.5, mean=0.45)), 0.8, 0.8)
    without, with_it, auto = (said(found, align=align) for align in ("none", "weights", "auto"))
    assert 'match the units before mixing (soup.align = "weights"), or train from one initial state' in without
    assert 'the job matches them before mixing (soup.align = "weights"); train from one initial state' in with_it
    assert 'the job matches them before mixing where that helps (soup.align = "auto")' in auto
    assert ': set soup.align = "weights".' in without
    for text in (with_it, auto):
        assert ": set soup" not in text
    left = "\n".join(verdict(found, Job(name="x", soup={"align": "auto"}), TASK, aligned="none"))
    assert 'soup.align = "auto" left them as they are, for matching does not help; train from one' in left
    assert ": set soup" not in left
    trunk = Job(name="x", train={"trunk_epochs": 7})
    assert "a later trunk (train.trunk_epochs above 7)" in "\n".join(verdict(diagnosis(0.5), trunk, TASK))
    snapshots = Job(name="x", train={"start": "snapshots"})
    assert 'a shared trunk (train.start = "shared", train' in "\n".join(verdict(diagnosis(0.5), snapshots, TASK))


def test_units_that_the_job_matches_into_one_basin_need_no_advice() -> None:
    found = match(start_apart(diagnosis(0.5, mean=0.45)), 0.9, 0.895)
    for align in ("weights", "auto"):
        done = said(found, align=align).splitlines()[-2]
        assert done == (
            "They started from 2 different initial states, so their hidden units are in different orders. "
            f'The job matches units before mixing (soup.align = "{align}"), and then they are in one basin.'
        )
    assert "Until then" in said(found, align="none")
    auto = Job(name="x", soup={"align": "auto"})
    assert "Until then" in "\n".join(verdict(found, auto, TASK, aligned="none"))
    assert "Until then" not in "\n".join(verdict(found, auto, TASK, aligned="weights"))
    assert "soup.leave_out" not in said(found, align="auto")


def test_a_lower_learning_rate_that_is_there_is_not_advised() -> None:
    found = diagnosis(0.5, 0.9)
    first, outside, inside = found.ingredients
    fast = replace(found, ingredients=(first, replace(outside, learning_rate=0.05), inside))
    assert "those of 0.005 or less are in one basin: leave the others out (soup.leave_out = [1])" in said(fast)
    assert "lower" not in said(fast)
    both = replace(diagnosis(0.5, 0.9, 0.5), ingredients=(*fast.ingredients, replace(inside, ingredient="0003")))
    assert "lower it to 0.005 or less" in said(both)  # one of a low rate is not in the basin either
    assert "fewer epochs or at a lower learning rate" in said(found)
    slow = replace(found, ingredients=tuple(replace(each, learning_rate=0.001) for each in found.ingredients))
    assert "train fewer epochs, or branch" in said(slow)


def test_the_verdict_does_not_contradict_what_a_report_says_of_the_uniform_soup() -> None:
    found = diagnosis(0.9, 0.899)
    one, unequal = verdict(found, JOB, TASK, uniform_loses=True)
    assert verdict(found, JOB, TASK, uniform_loses=False) == verdict(found, JOB, TASK) == [one]
    assert one.endswith("has 0.9000, 0.00 points above the mean ingredient.")
    assert unequal.startswith(
        "Even so the uniform soup loses to the best ingredient: it averages ingredients of 0.9000"
    )
    broken = diagnosis(0.5, mean=0.45)
    for loses, avoid in ((None, ", and not uniform."), (True, ", and not uniform."), (False, "the best ingredient.")):
        assert verdict(broken, JOB, TASK, loses)[-1].endswith(avoid)
    assert "Not one basin as trained" in said(broken)


def test_of_a_metric_of_which_low_is_good_a_high_one_is_weak() -> None:
    found = diagnosis(0.3, 0.1, mean=0.3, alone=0.1)
    first, second, third = found.ingredients
    weak = said(replace(found, ingredients=(first, second, replace(third, accuracy=0.3))), task=ErrorRate(3))
    assert "Ingredient 0002 alone is 20.00 points above the best one" in weak
    assert "alone is" not in said(
        replace(found, ingredients=(first, second, replace(third, accuracy=0.0))), task=ErrorRate(3)
    )
    ways = {0.1: True, 0.5: False}
    for mean, better in ways.items():
        matched = Midpoints(
            "matched by weights", 'soup.align = "weights"', found.variants[0].halfway, EvalResult(mean, 0.5)
        )
        advice = said(replace(found, variants=(*found.variants, matched)), task=ErrorRate(3))
        assert ('set soup.align = "weights"' in advice) == better
