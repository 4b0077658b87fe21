"""The scale of logits with the lowest cross-entropy, so that a soup is judged by its scores and not by its confidence.

Ingredients are kept at their best epoch by accuracy, where many are too sure of themselves already, each by another
amount. Cross-entropy then pays for mixing confidence, which no prediction depends on. Told at the best scale of its
logits (temperature scaling: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599, section
4.2), that part of the loss is gone. The scale is a minimum, so the gradient in alpha is that at this scale, held fixed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NARROWEST, _WIDEST = math.log(1 / 32), math.log(32)  # of nodes that are all right, no scale is large enough
_STEPS = 30
_SETTLED = 1e-6  # of the scale's logarithm


def best_scale(logits: Tensor, labels: Tensor) -> float:
    """The t between 1/32 and 32 with the lowest mean cross-entropy of t * `logits` (n, C); `labels` (n,).

    That loss is convex in t: Newton's steps in t, halved towards the bracket where one would leave it.
    """
    if not bool(torch.isfinite(logits).all()):
        return 1.0  # the loss is not finite at any scale
    low, high = _NARROWEST, _WIDEST
    point = 0.0
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits.detach(), labels, math.exp(point))
        low, high = (low, point) if slope > 0 else (point, high)
        there = math.exp(point) - slope / curvature if curvature > 0 else 0.0
        following = math.log(there) if there > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - point) < _SETTLED:
            break
        point = following
    return math.exp(point)


def _derivatives(logits: Tensor, labels: Tensor, scale: float) -> tuple[float, float]:
    """First and second derivative of the loss in the scale: E_p[z] - z_label and Var_p[z], means over nodes."""
    chances = (logits * scale).softmax(1)
    mean = (chances * logits).sum(1)
    square = (chances * logits.square()).sum(1)
    right = logits.gather(1, labels[:, None])[:, 0]
    slope, curvature = (mean - right).double().mean(), (square - mean.square()).double().mean()
    return float(slope), float(curvature)
