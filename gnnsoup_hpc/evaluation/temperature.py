"""The temperature of logits with the lowest cross-entropy, so that a soup is judged by its scores, not its confidence.

Ingredients are kept at their best epoch by accuracy, where many are too sure of themselves already, each by another
amount. Cross-entropy then pays for mixing confidence, which no prediction depends on. At the best temperature of its
logits (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599, section 4.2) that part of the
loss is gone. The temperature is a minimum, so the gradient in alpha is that at this temperature, held fixed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# If every prediction is correct, the best scale is unbounded, so it is clamped.
_NARROWEST, _WIDEST = math.log(1 / 32), math.log(32)
_STEPS = 30
_SETTLED = 1e-6  # of the scale's logarithm
_UNSEEN = 6  # of the steps on a GPU, until the host looks whether they have settled


def fit_scale(logits: Tensor, labels: Tensor) -> float:
    """The t between 1/32 and 32, 1 / temperature, with the lowest mean cross-entropy of t * `logits` (n, C).

    That loss is convex in t: Newton's steps in t, halved towards the bracket where one would leave it. Holds three
    arrays of the logits' size; a look at a scale costs about what the loss itself does. Shapes: labels (n,).
    """
    if not bool(torch.isfinite(logits).all()):
        return 1.0  # the loss is not finite at any scale
    logits = logits.detach()
    logits = logits - logits.amax(1, keepdim=True)  # no derivative changes where a node's are all moved by the same
    squares, right = logits.square(), logits.gather(1, labels[:, None])[:, 0]
    low, high = _NARROWEST, _WIDEST
    point = 0.0
    for _ in range(_STEPS):
        chances = (logits * math.exp(point)).exp_()  # softmax, times `total`
        total = chances.sum(1)
        mean, square = (torch.linalg.vecdot(chances, each) / total for each in (logits, squares))
        slope = float((mean - right).double().mean())  # E_p[z] - z_label, mean over nodes
        curvature = float((square - mean.square()).double().mean())  # Var_p[z]
        del chances  # before the next ones
        low, high = (low, point) if slope > 0 else (point, high)
        there = math.exp(point) - slope / curvature if curvature > 0 else 0.0
        following = math.log(there) if there > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - point) < _SETTLED:
            break
        point = following
    return math.exp(point)


def fit_scale_there(logits: Tensor, labels: Tensor) -> Tensor:
    """The same where the logits are, as a tensor (), by rounds of steps: the host waits once a round."""
    finite, logits = logits.isfinite().all(), logits.detach()
    logits = logits - logits.amax(1, keepdim=True)
    squares, right = logits.square(), logits.gather(1, labels[:, None])[:, 0]
    low, high, point = (right.new_full((), value, dtype=torch.float64) for value in (_NARROWEST, _WIDEST, 0.0))
    before = point
    for step in range(_STEPS):
        chances = (logits * point.exp()).exp_()
        total = chances.sum(1)
        mean, square = (torch.linalg.vecdot(chances, each) / total for each in (logits, squares))
        slope = (mean - right).double().mean()
        curvature = (square - mean.square()).double().mean()
        del chances  # before the next ones
        low, high = torch.where(slope > 0, low, point), torch.where(slope > 0, point, high)
        there = point.exp() - slope / curvature
        following = torch.where((curvature > 0) & (there > 0), there.log(), low)
        before, point = point, torch.where((low < following) & (following < high), following, (low + high) / 2)
        if step % _UNSEEN == _UNSEEN - 1 and not bool((point - before).abs() >= _SETTLED):
            break
    return torch.where(finite, point.exp(), 1.0)
