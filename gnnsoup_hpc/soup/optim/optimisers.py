"""Ways to a low loss in few evaluations: each moves a point (D,), D = G N or so, by what an objective says of it.

What counts is the number of evaluations, each a forward and a backward pass; the point itself is a few dozen numbers.
Sources: L-BFGS: Byrd, Lu, Nocedal, Zhu, SIAM J. Sci. Comput. 16, 1995, by SciPy. Adam: Kingma, Ba, ICLR 2015. EG:
Kivinen, Warmuth, Information and Computation 132, 1997. SGD with warm restarts: arXiv 2503.11612.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Protocol

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler

from gnnsoup_hpc.config import LearnedJob
from gnnsoup_hpc.runtime.comm import SERIAL, Comm

_PAIRS = 10  # of steps and changes of the gradient, from which L-BFGS tells the curvature


class Objective(Protocol):
    """The loss as an optimiser sees it."""

    def __call__(self, point: Tensor, rate: float = math.nan, natural: bool = False) -> tuple[float, Tensor]:
        """Loss and gradient (D,) at a point; `natural`: the gradient in alpha, in place of that in raw numbers."""

    def step_to(self, point: Tensor) -> None:
        """A step led here."""

    @property
    def is_spent(self) -> bool:
        """Whether there is no evaluation left on this batch."""


class _SpentError(Exception):
    """Leaves SciPy's search, which has no other way out of the middle of a step."""


def descend(objective: Objective, start: Tensor, options: LearnedJob) -> None:
    """`epochs` steps, one an evaluation, of all optimisers but L-BFGS."""
    point = start.clone().requires_grad_()
    optimiser, schedule = _stepper(point, options)
    for _ in range(options.epochs):
        _, point.grad = objective(point.detach(), float(schedule.get_last_lr()[0]), options.optimiser == "eg")
        optimiser.step()
        schedule.step()
        objective.step_to(point.detach().clone())


def _stepper(point: Tensor, options: LearnedJob) -> tuple[Optimizer, LRScheduler]:
    """EG is a plain step on the logarithm of alpha by the gradient in alpha itself."""
    if options.optimiser == "paper":
        sgd = SGD([point], lr=options.rate, momentum=options.momentum)
        return sgd, CosineAnnealingWarmRestarts(sgd, options.restart, options.restart_factor)
    kind = Adam if options.optimiser == "adam" else SGD
    optimiser = kind([point], lr=options.rate)
    return optimiser, CosineAnnealingLR(optimiser, options.epochs)


def search(objective: Objective, start: Tensor, tolerance: float, comm: Comm = SERIAL) -> Tensor:
    """L-BFGS from `start` until the objective is spent, or a step lowers the loss by less than `tolerance` of it.

    The first step has length 1. Returns the point with the lowest loss. Rank-collective: SciPy's arithmetic may differ
    between processors, and with it where a search ends, so rank 0's leads and the others evaluate where it goes.
    """
    best, lowest = start, math.inf

    def evaluate(point: Tensor) -> tuple[float, Tensor]:
        nonlocal best, lowest
        loss, gradient = objective(point)
        if loss < lowest:
            best, lowest = point, loss
        return loss, gradient

    def at(x: np.ndarray) -> tuple[float, np.ndarray]:
        if objective.is_spent:
            raise _SpentError
        point = torch.from_numpy(x.copy()).to(start.device)
        comm.bcast(point)
        loss, gradient = evaluate(point)
        return loss, gradient.cpu().numpy()

    if comm.rank == 0:
        limits = {"ftol": tolerance, "gtol": 0.0, "maxcor": _PAIRS}
        with suppress(_SpentError):
            scipy.optimize.minimize(at, start.cpu().numpy(), jac=True, method="L-BFGS-B", options=limits)
        comm.bcast(None)
    else:
        asked: Tensor | None = None
        while (point := comm.bcast(asked)) is not None:
            evaluate(point)
    return comm.bcast(best)
