"""What outputs mean: predictions, metric, losses and errors of classes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from gnnsoup_hpc.evaluation.tasks import NO_CLASS, Multiclass, rank_by_score, score
from gnnsoup_hpc.evaluation.temperature import fit_scale
from tests.arbitrary import normal

TASK = Multiclass(2)


def predict(logits: torch.Tensor, targets: list[int]) -> tuple[float, list[bool]]:
    """Metric and hits of logits."""
    predicted, wanted = TASK.predict(logits).numpy(), np.array(targets)
    return TASK.metric(predicted, wanted), TASK.hits(predicted, wanted).tolist()


def test_the_metric_is_the_share_of_nodes_that_are_right() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
    assert predict(logits, [1, 1, 1, 0]) == (0.75, [True, False, True, True])  # of equal scores the first counts
    assert predict(logits, [1, 1, 1, 1]) == (0.5, [True, False, True, False])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_model_with_a_score_that_is_not_finite_is_right_nowhere(bad: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, bad]])
    assert TASK.predict(logits).tolist() == [1, NO_CLASS]
    for targets in ([1, 0], [1, 1], [1, NO_CLASS]):
        assert predict(logits, targets) == (0.0, [False, False])


def test_losses_are_cross_entropies_in_nats() -> None:
    logits, targets = normal(0, 9, 4, kind=torch.float32), torch.arange(9) % 4
    for scale in (1.0, 0.5):
        torch.testing.assert_close(
            TASK.loss(logits, targets, scale=scale), functional.cross_entropy(logits * scale, targets)
        )
    found = TASK.losses(logits, targets)
    assert found.dtype == np.float64
    wanted = -logits.double().log_softmax(1)[torch.arange(9), targets]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)
    assert TASK.losses(torch.zeros(1, 4), torch.tensor([2])) == pytest.approx([math.log(4)])
    assert TASK.fit_scale(logits, targets) == fit_scale(logits, targets)


def test_an_ensemble_averages_softmax() -> None:
    logits = normal(1, 5, 3)
    torch.testing.assert_close(TASK.average(logits), logits.exp() / logits.exp().sum(1, keepdim=True))


def test_a_high_score_is_good_whichever_way_the_metric_rises() -> None:
    assert score(TASK, 0.6) == 0.6
    low = replace(TASK, higher_is_better=False)
    assert score(low, 0.4) > score(low, 0.5)
    assert score(low, score(low, 0.4)) == 0.4


def test_binomial_error_of_an_accuracy() -> None:
    assert TASK.error(0.5, 100) == 0.05
    assert TASK.error(0.9, 100_000) == pytest.approx(math.sqrt(0.9 * 0.1 / 100_000), rel=1e-3)
    assert TASK.error(1.0, 100) > 0.0


def test_error_below_a_mean_is_that_of_independent_binomials() -> None:
    rng, nodes = np.random.default_rng(0), 1000
    drawn = rng.binomial(nodes, [0.7, 0.8, 0.9], size=(20_000, 3)) / nodes
    differences = drawn[:, 0] - drawn[:, 1:].mean(1)
    assert TASK.error_below_mean(0.7, [0.8, 0.9], nodes) == pytest.approx(differences.std(), rel=0.03)


def test_paired_error_counts_only_what_one_alone_gets_right() -> None:
    assert TASK.paired_error(9, 16, 100) == 0.05
    assert TASK.paired_error(0, 0, 100) == 0.0
    # Four nodes that only one of them gets right are no proof, five are.
    assert 2 * TASK.paired_error(4, 0, 100) >= 4 / 100
    assert 2 * TASK.paired_error(5, 0, 100) < 5 / 100


def test_paired_error_is_the_spread_of_equals_on_the_same_nodes() -> None:
    rng, nodes = np.random.default_rng(1), 1000
    shared = rng.random((4000, nodes)) < 0.9
    one, other = (np.where(shared, True, rng.random((4000, nodes)) < 0.5) for _ in range(2))
    differences = one.mean(1) - other.mean(1)
    errors = [
        TASK.paired_error(int((a & ~b).sum()), int((b & ~a).sum()), nodes) for a, b in zip(one, other, strict=True)
    ]
    assert np.mean(errors) == pytest.approx(differences.std(), rel=0.03)


def test_models_are_ranked_by_score_and_then_by_id() -> None:
    assert rank_by_score([0.5, 0.7, 0.5, 0.9], [3, 0, 1, 7]) == [3, 1, 2, 0]
    assert rank_by_score([], []) == []
