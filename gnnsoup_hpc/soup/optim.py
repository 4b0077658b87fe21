"""What LS and PLS are made of: alpha from raw numbers, which alpha is returned (trackers), and the optimisers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler

from gnnsoup_hpc.config import LearnedJob
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.utils.optimisers import SGD, Adam
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

    Each ingredient draws from its own id, so their order does not matter.
    """
    draws = (torch_generator(_CPU, seed, 0, index) for index in ids)
    columns = [torch.randn(groups, generator=draw, dtype=torch.float64) for draw in draws]
    return torch.stack(columns, 1) * math.sqrt(2.0 / (groups + len(ids)))


def squared_distance_to_uniform(alpha_GN: Tensor) -> Tensor:
    """Squared distance of alpha (G, N) to 1/N, mean over groups."""
    return (alpha_GN - 1.0 / alpha_GN.shape[1]).square().sum(1).mean()


# ---- trackers
# Which alpha a learned method returns, of those that it has come by. Trackers see every evaluated alpha with the loss
# that it is judged by, and where every step led to.


class LastTracker:
    """Where the last step led to."""

    def __init__(self, alpha_GN: Tensor) -> None:
        self.alpha = alpha_GN

    def note_loss(self, alpha_GN: Tensor, loss: float) -> None:
        """Alpha was evaluated; NaN where nothing judges it."""

    def note_step(self, alpha_GN: Tensor) -> None:
        """A step led to alpha."""
        self.alpha = alpha_GN


class MeanTracker(LastTracker):
    """The mean of where all steps led."""

    _count = 0

    def note_step(self, alpha_GN: Tensor) -> None:
        """The mean so far."""
        self._count += 1
        self.alpha = alpha_GN if self._count == 1 else self.alpha + (alpha_GN - self.alpha) / self._count


class LowestLossTracker(LastTracker):
    """The alpha with the lowest mean of the last `window` losses, of equals the first; the last until there are any."""

    def __init__(self, alpha_GN: Tensor, window: int = 1) -> None:
        super().__init__(alpha_GN)
        self._recent, self._window, self._lowest = deque[float](maxlen=window), window, math.inf

    def note_loss(self, alpha_GN: Tensor, loss: float) -> None:
        """Judged once the window is full."""
        if math.isnan(loss):
            return
        self._recent.append(loss)
        if len(self._recent) < self._window:
            self.alpha = alpha_GN
        elif (mean := sum(self._recent) / len(self._recent)) < self._lowest:
            self.alpha, self._lowest = alpha_GN, mean

    def note_step(self, alpha_GN: Tensor) -> None:
        """Not taken: it was not evaluated yet."""


# ---- optimisers
# Ways to a low loss in few evaluations: each moves a point (D,), D = G N or so, by loss and gradient there.
#
# What counts is the number of evaluations, each a forward and a backward pass; the point itself is a few dozen numbers.
# Sources: L-BFGS: Byrd, Lu, Nocedal, Zhu, SIAM J. Sci. Comput. 16, 1995, by SciPy. Adam: Kingma, Ba, ICLR 2015. EG:
# Kivinen, Warmuth, Information and Computation 132, 1997. SGD with warm restarts: arXiv 2503.11612.

_PAIRS = 10  # of steps and changes of the gradient, that L-BFGS estimates the curvature from


# Loss and gradient (D,) at a point.
Evaluate = Callable[[Tensor], tuple[float, Tensor]]


class _SpentError(Exception):
    """Leaves SciPy's search, which has no other way out of the middle of a step."""


def descend(
    evaluate: Callable[[Tensor, float], tuple[float, Tensor]], start: Tensor, options: LearnedJob
) -> Iterator[Tensor]:
    """Where each of `epochs` steps led, one an evaluation at a point and a rate; all optimisers but L-BFGS."""
    point = start.clone().requires_grad_()
    optimiser: Optimizer
    schedule: LRScheduler
    if options.optimiser == "paper":
        optimiser = SGD([point], lr=options.rate, momentum=options.momentum)
        schedule = CosineAnnealingWarmRestarts(optimiser, options.restart, options.restart_factor)
    else:  # EG is a plain step on the logarithm of alpha by the gradient in alpha itself
        optimiser = (Adam if options.optimiser == "adam" else SGD)([point], lr=options.rate)
        schedule = CosineAnnealingLR(optimiser, options.epochs)
    for _ in range(options.epochs):
        _, point.grad = evaluate(point.detach(), float(schedule.get_last_lr()[0]))
        optimiser.step()
        schedule.step()
        yield point.detach().clone()


def search(evaluate: Evaluate, start: Tensor, tolerance: float, evaluations: int, comm: Comm = SERIAL) -> Tensor:
    """L-BFGS from `start` for so many evaluations, or until a step lowers the loss by less than `tolerance`.

    `tolerance` is SciPy's ftol: a part of the loss where that is above 1, else a number of nats.

    The first step has length 1. Returns the point with the lowest loss. Rank-collective: SciPy's arithmetic may differ
    between processors, and with it where a search ends, so rank 0's leads and the others evaluate where it goes.
    """
    best, lowest, count = start, math.inf, 0

    def at(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, lowest, count
        if count == evaluations:
            raise _SpentError
        point = torch.from_numpy(x.copy()).to(start.device)
        comm.bcast(point)  # that there is another evaluation
        loss, gradient = evaluate(point)
        count += 1
        if loss < lowest:
            best, lowest = point, loss
        return loss, gradient.cpu().numpy()

    if comm.rank == 0:
        limits = {"ftol": tolerance, "gtol": 0.0, "maxcor": _PAIRS}
        with suppress(_SpentError):
            scipy.optimize.minimize(at, start.cpu().numpy(), jac=True, method="L-BFGS-B", options=limits)
        comm.bcast(None)
    else:
        while (point := comm.bcast(start)) is not None:
            evaluate(point)
    return comm.bcast(best)
