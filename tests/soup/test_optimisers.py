"""Each optimiser on a valley whose lowest point is known, and on the tiny run, where none may lose to the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, repeat
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gnnsoup_hpc.config import Job, LearnedJob, PartitionLearnedJob
from gnnsoup_hpc.config.loading import validate
from gnnsoup_hpc.engine import Plan
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods.learned import BatchStream, Learned, PartitionLearned, fit
from gnnsoup_hpc.soup.mixtures import Mixtures
from gnnsoup_hpc.soup.optim import choose_start, compute_alpha, descend, search, squared_distance_to_uniform
from gnnsoup_hpc.types import Role
from tests import runs

MANY = 10_000  # evaluations
NEW = ["lbfgs", "adam", "eg"]
GOAL = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
STEEP = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
THIRDS = torch.full((2, 3), 1 / 3, dtype=torch.float64)


@dataclass
class Valley:
    """sum of STEEP (x - GOAL)^2 / 2."""

    seen: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def __call__(self, point: Tensor, rate: float = math.nan) -> tuple[float, Tensor]:
        loss = float((STEEP * (point - GOAL).square()).sum() / 2)
        self.seen.append(loss)
        self.rates.append(rate)
        return loss, STEEP * (point - GOAL)


def zeros() -> Tensor:
    return torch.zeros(3, dtype=torch.float64)


def test_lbfgs_finds_the_bottom_in_few_evaluations() -> None:
    valley = Valley()
    torch.testing.assert_close(search(valley, zeros(), 0.0, MANY), GOAL, atol=1e-6, rtol=0.0)
    assert len(valley.seen) <= 20


def test_lbfgs_returns_the_lowest_that_it_saw_when_it_is_cut_short() -> None:
    valley = Valley()
    found = search(valley, zeros(), 0.0, 4)
    assert len(valley.seen) == 4
    assert float((STEEP * (found - GOAL).square()).sum() / 2) == min(valley.seen)


def test_lbfgs_stops_by_its_tolerance() -> None:
    eager, lazy = Valley(), Valley()
    search(eager, zeros(), 0.0, MANY)
    search(lazy, zeros(), 1.0, MANY)
    assert len(lazy.seen) < len(eager.seen)


@pytest.mark.parametrize(("optimiser", "rate"), [("adam", 0.3), ("eg", 0.01), ("paper", 0.01)])
def test_the_others_make_one_step_an_evaluation(optimiser: str, rate: float) -> None:
    valley = Valley()
    moves = list(descend(valley, zeros(), LearnedJob(optimiser=optimiser, learning_rate=rate, epochs=60)))
    assert len(valley.seen) == len(moves) == 60
    assert valley.seen[-1] < valley.seen[0] / 2
    assert valley.rates[0] == rate


def learn(job: Job, optimiser: str, **options: Any) -> MixingWeights:
    """LS by the plain loss, the one that all optimisers have in common."""
    return runs.run_method(Learned(LearnedJob(optimiser=optimiser, logit_scale=False, **options)), job)


@contextmanager
def open_context(job: Job) -> Iterator[tuple[SoupContext, Mixtures, Plan]]:
    """A context, its mixtures, and the plan of the whole graph that both share."""
    with runs.open_mixtures(job) as mixtures:
        yield runs.make_context(mixtures), mixtures, mixtures.evaluator.plan((Role.VALIDATION,))


def loss_at(job: Job, weights: MixingWeights) -> float:
    with open_context(job) as (context, _, whole):
        return context.loss_and_gradient(weights.alpha, weights.by, whole).loss


@pytest.mark.parametrize("optimiser", NEW)
def test_reaches_at_least_what_the_papers_reaches(trained: Job, optimiser: str) -> None:
    paper = loss_at(trained, learn(trained, "paper", epochs=50))
    assert loss_at(trained, learn(trained, optimiser, epochs=25, tolerance=0.0)) <= paper + 1e-6


@pytest.mark.parametrize("optimiser", NEW)
def test_keeps_the_best_alpha_seen(trained: Job, optimiser: str) -> None:
    mixture = learn(trained, optimiser, epochs=9)
    assert loss_at(trained, mixture) == pytest.approx(min(step.loss for step in mixture.history), abs=1e-6)


def test_never_more_evaluations_than_epochs(trained: Job) -> None:
    with open_context(trained) as (context, _, whole):
        fit(context, LearnedJob(epochs=3, tolerance=0.0), BatchStream(repeat(whole)), "ls")
    assert context.counts["backward_whole"] == 3


def test_free_and_affine_weights_go_where_shares_cannot(trained: Job) -> None:
    shares, affine, free = (learn(trained, "lbfgs", weights=kind, epochs=30) for kind in ("softmax", "affine", "free"))
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(affine.alpha.sum(1), ones, atol=1e-9, rtol=0.0)
    assert float((free.alpha.sum(1) - ones).abs().max()) > 1e-3
    losses = [loss_at(trained, mixture) for mixture in (shares, affine, free)]
    assert losses[0] >= losses[1] - 1e-4
    assert losses[1] >= losses[2] - 1e-4


@pytest.mark.parametrize("weights", ["softmax", "affine", "free"])
@pytest.mark.parametrize("start", ["uniform", "xavier"])
def test_all_weights_start_alike(weights: str, start: str) -> None:
    options = LearnedJob(optimiser="adam", weights=weights, start=start)
    alpha = compute_alpha(choose_start(options, 3, 2, (0, 1, 2)), weights)
    shares = compute_alpha(choose_start(options.model_copy(update={"weights": "softmax"}), 3, 2, (0, 1, 2)), "softmax")
    torch.testing.assert_close(alpha, shares)
    assert (float((alpha - 1 / 3).abs().max()) < 1e-12) == (start == "uniform")


@pytest.mark.parametrize("optimiser", NEW)
def test_regularisation_pulls_towards_uniform(trained: Job, optimiser: str) -> None:
    far, near = (learn(trained, optimiser, regularise=strength, epochs=20) for strength in (0.0, 10.0))
    assert squared_distance_to_uniform(near.alpha) < squared_distance_to_uniform(far.alpha) / 2


def gradient(job: Job, holdout: float, flip: str) -> tuple[float, Tensor]:
    """Loss of what is fitted on and its gradient, labels of one side of the held-out mask changed."""
    with open_context(job) as (context, _, whole):
        mask = next(context.hold_out(holdout, "soup.ls.holdout"))
        assert mask is not None
        changed = mask if flip == "held out" else ~mask
        if flip:
            whole.targets[changed] = (whole.targets[changed] + 1) % 3
        found = context.loss_and_gradient(THIRDS, "layer", whole, holdout=mask)
    return found.loss, found.gradient


def test_held_out_nodes_have_no_part_in_the_gradient(trained: Job) -> None:
    loss, wanted = gradient(trained, 0.5, "")
    same, found = gradient(trained, 0.5, "held out")
    other, changed = gradient(trained, 0.5, "fitted")
    assert same == loss
    assert torch.equal(found, wanted)
    assert other != loss
    assert not torch.allclose(changed, wanted)


def test_a_node_is_held_out_of_unions_as_it_is_of_the_whole(trained: Job) -> None:
    with open_context(trained) as (context, mixtures, _):
        whole = next(context.hold_out(0.4, "x"))
        assert whole is not None
        counts = mixtures.graph.validation_counts
        parts = whole.split(counts.tolist())
        assert [int(part.sum()) for part in parts] == [int(0.4 * count) for count in counts]
        triples = combinations(range(len(counts)), 3)
        fits = {tuple(torch.cat([parts[part] for part in chosen]).tolist()) for chosen in triples}
        with context.batches(3, 4) as batches:
            for plan, mask in zip(batches, context.hold_out(0.4, "x", 3), strict=False):
                assert len(mask) == len(plan.targets)
                assert tuple(mask.tolist()) in fits


def test_the_union_of_all_parts_holds_out_what_the_whole_does(trained: Job) -> None:
    parts = trained.partition.parts
    with open_context(trained) as (context, _, whole):
        with context.batches(parts, 1) as batches:
            assert torch.equal(next(batches).targets, whole.targets)
        assert torch.equal(next(context.hold_out(0.4, "x", parts)), next(context.hold_out(0.4, "x")))


@pytest.mark.parametrize("optimiser", ["paper", *NEW])
def test_held_out_choice_is_the_lowest_held_out_loss(trained: Job, optimiser: str) -> None:
    found = learn(trained, optimiser, holdout=0.5, epochs=8).alpha
    with open_context(trained) as (context, _, whole):
        mask = next(context.hold_out(0.5, "x"))
        chosen, start = (
            context.loss_and_gradient(alpha, "layer", whole, holdout=mask).held_out for alpha in (found, THIRDS)
        )
    assert chosen <= start + (1.0 if optimiser == "paper" else 1e-7)  # paper starts elsewhere


@pytest.mark.parametrize("optimiser", [name for name in NEW if name != "lbfgs"])
def test_pls_with_a_holdout(trained: Job, optimiser: str) -> None:
    options = PartitionLearnedJob(optimiser=optimiser, epochs=8, reuse=2, union=3, holdout=0.4)
    alpha = runs.run_method(PartitionLearned(options), trained).alpha
    torch.testing.assert_close(alpha.sum(1), torch.ones(2, dtype=torch.float64))


def test_a_union_is_used_for_as_many_evaluations_as_the_job_says(trained: Job) -> None:
    options = PartitionLearnedJob(optimiser="adam", epochs=7, reuse=3, union=3)
    read = []

    class Counting(SoupContext):
        @contextmanager
        def batches(self, *arguments: Any, **more: Any) -> Iterator[Iterator[Plan | None]]:
            with super().batches(*arguments, **more) as batches:
                yield ((read.append(1), batch)[1] for batch in batches)

    with runs.open_mixtures(trained) as mixtures:
        context = Counting(mixtures, 0, runs.QUIET)
        PartitionLearned(options).run(context)
    assert len(read) == 3
    assert context.counts["backward_union"] == 7


@pytest.mark.parametrize(
    ("soup", "message"),
    [
        ({"ls": {"optimiser": "sgd"}}, r"soup.ls.optimiser = 'sgd'"),
        ({"ls": {"optimiser": "lbfgs", "learning_rate": 3.0}}, "optimiser = 'lbfgs' has none, it searches"),
        ({"ls": {"optimiser": "adam", "momentum": 0.5}}, "momentum = 0.5 is for optimiser = 'paper'; adam has none"),
        ({"ls": {"optimiser": "eg", "weights": "free"}}, "optimiser = 'eg' needs weights = 'softmax'"),
        ({"ls": {"holdout": 1.0}}, "soup.ls.holdout = 1.0"),
        ({"pls": {"optimiser": "lbfgs", "holdout": 0.3}}, "holdout needs one course of alpha"),
        ({"pls": {"optimiser": "lbfgs"}}, "give soup.pls.reuse, the evaluations on each"),
    ],
)
def test_a_wrong_option_is_one_line(soup: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message) as error:
        validate({"name": "a", "soup": soup}, "a.toml")
    assert "\n" not in str(error.value)


def test_a_holdout_that_would_never_be_looked_at_is_refused(trained: Job) -> None:
    options = PartitionLearnedJob(optimiser="adam", epochs=2, union=1, holdout=0.4)
    with pytest.raises(JobError, match=r"soup.pls.holdout = 0.4 judges alpha by the mean of .* raise epochs"):
        runs.run_method(PartitionLearned(options), trained)


def test_a_course_that_leaves_the_numbers_is_an_error(trained: Job) -> None:
    with pytest.raises(RunError, match=r"ls diverged: its loss is not a number from evaluation .* lower learning_rate"):
        learn(trained, "paper", weights="free", learning_rate=1000.0, epochs=50)


def test_a_field_at_its_default_does_not_mean_paper() -> None:
    assert LearnedJob.model_validate({"learning_rate": 0.0}).optimiser == "lbfgs"
    assert LearnedJob.model_validate({"learning_rate": 2.0}).optimiser == "paper"
    assert not LearnedJob.model_validate({"learning_rate": 2.0}).logit_scale


def test_a_holdout_of_no_node_is_refused(trained: Job) -> None:
    with pytest.raises(JobError, match=r"soup.ls.holdout = 0.001 keeps out none"):
        learn(trained, "adam", holdout=0.001)


def test_jobs_from_before_there_was_a_choice_mean_the_papers() -> None:
    older = validate({"name": "a", "soup": {"ls": {"restart": 16}, "pls": {"learning_rate": 9.0}}}, "a.toml").soup
    assert (older.ls.optimiser, older.pls.optimiser) == ("paper", "paper")
    assert (older.ls.rate, older.pls.rate) == (10.0, 9.0)
    assert (older.ls.epochs, older.pls.epochs) == (50, 100)
    assert not older.ls.uniform_start


def test_history_tells_every_evaluation(trained: Job) -> None:
    history = learn(trained, "lbfgs", epochs=5, tolerance=0.0).history
    assert [step.step for step in history] == list(range(1, len(history) + 1))
    assert np.isfinite([step.loss for step in history]).all()
    assert all(math.isnan(step.learning_rate) for step in history)
