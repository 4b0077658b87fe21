"""The best scale of logits against a general minimiser, and the gradient of a loss that is told at it."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.evaluation.temperature import fit_scale, fit_scale_there
from tests.arbitrary import normal

NODES, CLASSES = 60, 5


def labels_of(logits: Tensor, wrong: int) -> Tensor:
    """The highest scores', but for the first `wrong` nodes."""
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    return labels


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("wrong", [3, 15, 30])
def test_no_scale_has_a_lower_loss(sharpness: float, wrong: int) -> None:
    logits = sharpness * normal(1, NODES, CLASSES)
    labels = labels_of(logits, wrong)
    found = minimize_scalar(
        lambda t: float(functional.cross_entropy(t * logits, labels)), bounds=(1 / 32, 32), method="bounded"
    )
    assert fit_scale(logits, labels) == pytest.approx(found.x, rel=1e-3)
    assert float(functional.cross_entropy(fit_scale(logits, labels) * logits, labels)) <= found.fun + 1e-6


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("wrong", [0, 3, 15, 30, NODES])
def test_steps_that_nobody_looks_at_lead_to_the_same_scale(sharpness: float, wrong: int) -> None:
    logits = sharpness * normal(1, NODES, CLASSES)
    labels = labels_of(logits, wrong)
    found = fit_scale_there(logits, labels)
    assert found.shape == ()
    assert float(found) == pytest.approx(fit_scale(logits, labels), rel=1e-5)
    assert float(fit_scale_there(torch.full((4, 3), float("inf")), torch.zeros(4, dtype=torch.long))) == 1.0


def test_scales_of_the_same_scores_make_the_same_loss() -> None:
    logits = normal(2, NODES, CLASSES)
    labels = labels_of(logits, 20)
    assert fit_scale(4.0 * logits, labels) == pytest.approx(fit_scale(logits, labels) / 4.0, rel=1e-4)


@pytest.mark.parametrize(("wrong", "limit"), [(0, 32.0), (NODES, 1 / 32)])
def test_where_all_are_right_or_all_wrong_it_ends_at_a_limit(wrong: int, limit: float) -> None:
    logits = 0.1 * normal(3, NODES, CLASSES)
    assert fit_scale(logits, labels_of(logits, wrong)) == pytest.approx(limit, rel=1e-4)


def test_alike_scores_and_scores_that_are_not_finite_have_a_scale_all_the_same() -> None:
    labels = torch.zeros(4, dtype=torch.long)
    assert 1 / 32 <= fit_scale(torch.ones(4, 3), labels) <= 32
    assert fit_scale(torch.full((4, 3), float("inf")), labels) == 1.0


def test_the_gradient_at_the_scale_is_that_of_the_minimum() -> None:
    """By central differences of min over t of the loss: the scale moves too, and has no part in the gradient."""
    weight = normal(4, 3, CLASSES).requires_grad_()
    x = normal(5, NODES, 3)
    labels = labels_of(x @ weight.detach() + normal(6, NODES, CLASSES), 10)

    def loss(w: Tensor) -> Tensor:
        logits = x @ w
        return functional.cross_entropy(fit_scale(logits, labels) * logits, labels)

    (slope,) = torch.autograd.grad(loss(weight), weight)
    for row, column in [(0, 0), (1, 3), (2, 4)]:
        step = torch.zeros_like(weight)
        step[row, column] = 1e-4
        with torch.no_grad():
            difference = float(loss(weight + step) - loss(weight - step)) / 2e-4
        assert float(slope[row, column]) == pytest.approx(difference, rel=1e-4, abs=1e-7)
