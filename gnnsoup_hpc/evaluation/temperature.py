"""The temperature of logits with the lowest cross-entropy, so that a soup is judged by its scores, not its confidence.

Ingredients are kept at their best epoch by accuracy, where many are too sure of themselves already, each by another
amount. Cross-entropy then pays for mixing confidence, which no prediction depends on. At the best temperature of its
logits (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599, section 4.2) that part of the
loss is gone. The temperature is a minimum, so the gradient in alpha is that at this temperature, held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# If every prediction is correct, the best scale is unbounded, so it is clamped.
_NARROWEST, _WIDEST = math.log(1 / 32), math.log(32)
_STEPS = 30
_SETTLED = 1e-6  # of the scale's logarithm
_UNSEEN = 6  # of the steps on a GPU, until the host looks whether they have settled


Look = Callable[[float], tuple[Tensor, Tensor]]  # at a scale: the loss's first and second derivative in it
LookThere = Callable[[Tensor], tuple[Tensor, Tensor]]  # the same, of a scale that is a tensor ()


def fit_scale(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """The t between 1/32 and 32, 1 / temperature, with the lowest mean cross-entropy of t * `logits` (n, C).

    That loss is convex in t: Newton's steps in t, halved towards the bracket where one would leave it. Holds three
    arrays of the logits' size; a look at a scale costs about what the loss itself does. Shapes: labels, weights (n,).
    """
    if not bool(torch.isfinite(logits).all()):
        return 1.0  # the loss is not finite at any scale
    return _search(_look_at_classes(logits, labels, weights))


def fit_scale_there(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The same where the logits are, as a tensor (), by rounds of steps: the host waits once a round."""
    finite = logits.isfinite().all()
    return torch.where(finite, _search_there(_look_at_classes(logits, labels, weights), logits), 1.0)


def fit_binary_scale(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """The same of binary cross-entropy, one scale for all. Shapes: all (n, T); labels 0 or 1, weights 0 for none."""
    if not bool(torch.isfinite(logits).all()):
        return 1.0
    return _search(_look_at_labels(logits, labels, weights))


def fit_binary_scale_there(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The same where the logits are, as a tensor ()."""
    finite = logits.isfinite().all()
    return torch.where(finite, _search_there(_look_at_labels(logits, labels, weights), logits), 1.0)


def _look_at_classes(
    logits: Tensor, labels: Tensor, weights: Tensor | None
) -> Callable[[float | Tensor], tuple[Tensor, Tensor]]:
    logits = logits.detach()
    logits = logits - logits.amax(1, keepdim=True)  # no derivative changes where a node's are all moved by the same
    squares, right = logits.square(), logits.gather(1, labels[:, None])[:, 0]

    def look(scale: float | Tensor) -> tuple[Tensor, Tensor]:
        chances = (logits * scale).exp_()  # softmax, times `total`
        total = chances.sum(1)
        mean, square = (torch.linalg.vecdot(chances, each) / total for each in (logits, squares))
        # E_p[z] - z_label and Var_p[z], mean over nodes
        return _average(mean - right, weights), _average(square - mean.square(), weights)

    return look


def _look_at_labels(
    logits: Tensor, labels: Tensor, weights: Tensor
) -> Callable[[float | Tensor], tuple[Tensor, Tensor]]:
    logits = logits.detach()

    def look(scale: float | Tensor) -> tuple[Tensor, Tensor]:
        chances = (logits * scale).sigmoid_()
        curvature = _average(chances * (1.0 - chances) * logits.square(), weights)
        return _average((chances - labels) * logits, weights), curvature

    return look


def _average(values: Tensor, weights: Tensor | None) -> Tensor:
    """In float64."""
    values = values.double()
    return values.mean() if weights is None else (values * weights).sum() / weights.sum(dtype=torch.float64)


def _search(look: Look) -> float:
    low, high = _NARROWEST, _WIDEST
    point = 0.0
    for _ in range(_STEPS):
        slope, curvature = map(float, look(math.exp(point)))
        low, high = (low, point) if slope > 0 else (point, high)
        there = math.exp(point) - slope / curvature if curvature > 0 else 0.0
        following = math.log(there) if there > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - point) < _SETTLED:
            break
        point = following
    return math.exp(point)


def _search_there(look: LookThere, like: Tensor) -> Tensor:
    low, high, point = (like.new_full((), value, dtype=torch.float64) for value in (_NARROWEST, _WIDEST, 0.0))
    before = point
    for step in range(_STEPS):
        slope, curvature = look(point.exp())
        low, high = torch.where(slope > 0, low, point), torch.where(slope > 0, point, high)
        there = point.exp() - slope / curvature
        following = torch.where((curvature > 0) & (there > 0), there.log(), low)
        before, point = point, torch.where((low < following) & (following < high), following, (low + high) / 2)
        if step % _UNSEEN == _UNSEEN - 1 and not bool((point - before).abs() >= _SETTLED):
            break
    return point.exp()
