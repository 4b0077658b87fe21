"""From a point, the numbers that an optimiser moves, to alpha, and where the point starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gnnsoup_hpc.config import LearnedJob
from gnnsoup_hpc.utils.rng import torch_generator

_CPU = torch.device("cpu")


def compute_alpha(raw_GN: Tensor, weights: str) -> Tensor:
    """Alpha (G, N) of raw numbers (G, N): by softmax, or 1/N plus them, with their mean taken off for "affine"."""
    if weights == "softmax":
        return raw_GN.softmax(1)
    moved = raw_GN - raw_GN.mean(1, keepdim=True) if weights == "affine" else raw_GN
    return moved + 1.0 / raw_GN.shape[1]


def choose_start(options: LearnedJob, seed: int, groups: int, ids: tuple[int, ...]) -> Tensor:
    """Raw numbers (G, N), float64: zeros, or those whose alpha is the softmax of a draw with Glorot's deviation."""
    if options.uniform_start:
        return torch.zeros(groups, len(ids), dtype=torch.float64)
    raw = draw_xavier(seed, groups, ids)
    return raw if options.weights == "softmax" else raw.softmax(1) - 1.0 / len(ids)


def draw_xavier(seed: int, groups: int, ids: tuple[int, ...]) -> Tensor:
    """Raw alphas (G, N) with Glorot's standard deviation sqrt(2 / (G + N)), float64.

    Each ingredient draws from its own id, so the order on the shelf does not matter.
    """
    columns = [
        torch.randn(groups, generator=torch_generator(_CPU, seed, 0, index), dtype=torch.float64) for index in ids
    ]
    return torch.stack(columns, 1) * math.sqrt(2.0 / (groups + len(ids)))


def squared_distance_to_uniform(alpha_GN: Tensor) -> Tensor:
    """Squared distance of alpha (G, N) to 1/N, mean over groups."""
    return (alpha_GN - 1.0 / alpha_GN.shape[1]).square().sum(1).mean()
