"""The fitting loop that LS and PLS share: an optimiser of alpha over a stream of subgraphs.

LS streams the whole graph, PLS a fresh union of parts each step; that is their only difference (arXiv 2503.11612).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import repeat

import torch
from torch import Tensor

from gnnsoup_hpc.config import LearnedJob
from gnnsoup_hpc.engine import Ready
from gnnsoup_hpc.errors import DivergedError
from gnnsoup_hpc.io.records import MixingWeights, Step
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.optim.optimisers import descend, search
from gnnsoup_hpc.soup.optim.trackers import BestTracker, HoldoutTracker, LastTracker, LowestLossTracker, MeanTracker
from gnnsoup_hpc.soup.optim.weights import choose_start, compute_alpha, squared_distance_to_uniform


class BatchStream:
    """Views one after the other, each for `reuse` evaluations, with masks of what is kept out of them.

    whole: each is the whole graph, so that losses of two evaluations can be compared.
    window: evaluations that see about every validation node once.
    """

    def __init__(
        self,
        views: Generator[Ready],
        masks: Iterator[Tensor | None] | None = None,
        whole: bool = True,
        reuse: int = 1,
        window: int = 1,
    ) -> None:
        self.views, self._masks = views, masks or repeat(None)
        self.whole, self._reuse, self.window = whole, reuse, window
        self._now: tuple[Ready, Tensor | None] | None = None
        self._uses = 0

    def now(self) -> tuple[Ready, Tensor | None]:
        """The view to evaluate on, and the mask of what is kept out of it."""
        if self._now is None or self._uses >= self._reuse:
            self._now = None  # before the next subgraph is read
            self._now, self._uses = (next(self.views), next(self._masks)), 0
        self._uses += 1
        return self._now

    @property
    def used_up(self) -> bool:
        """Whether the next evaluation cannot be compared with the last."""
        return not self.whole and self._now is not None and self._uses >= self._reuse

    def turn(self) -> None:
        """Be done with this view."""
        self._now = None


def fit(kitchen: SoupContext, options: LearnedJob, served: BatchStream, title: str) -> MixingWeights:
    """Alpha after at most `options.epochs` evaluations by the optimiser of `options`, or the best of those seen.

    Closes the stream of views, whatever comes.
    """
    with closing(served.views):
        shelf = kitchen.shelf
        groups = tuple(shelf.groups(options.alpha))
        raw = choose_start(options, kitchen.seed, len(groups), shelf.ids).to(kitchen.device)
        start = raw.flatten()
        keeper = _keeper(options, served, compute_alpha(raw, options.weights))
        objective = _Objective(kitchen, options, served, keeper, title)
        if options.optimiser != "lbfgs":
            descend(objective, start, options)
        elif served.whole:
            search(objective, start, options.tolerance)
        else:
            _searched_on_each(objective, start, options, served)
        objective.close()
        _finite(keeper.alpha, objective.history, options, title)
        return MixingWeights(keeper.alpha.cpu(), groups, options.alpha, tuple(objective.history))


def _finite(alpha_GN: Tensor, history: list[Step], options: LearnedJob, title: str) -> None:
    """Raises: DivergedError where the search left the numbers, so that what it led to is no soup."""
    if bool(torch.isfinite(alpha_GN).all()) and math.isfinite(history[0].loss):
        return
    lost = next((step.step for step in history if not math.isfinite(step.loss)), len(history))
    if options.optimiser != "lbfgs":
        remedy = "give it a lower learning_rate"
    elif options.weights != "softmax":
        remedy = "set weights = 'softmax'"
    else:  # the start, a mean of sound ingredients, is none itself
        remedy = "see gnnsoup diagnose for which ingredients do not mix"
    raise DivergedError(
        f"{title} diverged: its loss is not a number from evaluation {lost} on (soup.{title}.optimiser ="
        f" '{options.optimiser}', weights = '{options.weights}'); {remedy}, and soup again: other soups are kept"
    )


def _keeper(options: LearnedJob, served: BatchStream, alpha_GN: Tensor) -> BestTracker:
    """Losses of different unions cannot be compared, so there what counts is where the steps led."""
    if options.holdout:
        return HoldoutTracker(alpha_GN, served.window)
    if options.optimiser == "paper":
        return LastTracker(alpha_GN)
    if served.whole:
        return LowestLossTracker(alpha_GN)
    return MeanTracker(alpha_GN) if options.optimiser == "lbfgs" else LastTracker(alpha_GN)


def _searched_on_each(objective: _Objective, start: Tensor, options: LearnedJob, served: BatchStream) -> None:
    """A search of its own on each union: from where the last one led it would fit itself to the next one alone."""
    while not objective.finished:
        objective.moved(search(objective, start, options.tolerance))
        served.turn()


class _Objective:
    """Loss and gradient at a point (G N,); keeps the history."""

    def __init__(
        self, kitchen: SoupContext, options: LearnedJob, served: BatchStream, keeper: BestTracker, title: str
    ) -> None:
        self.history: list[Step] = []
        self._kitchen, self._options, self._served, self._keeper = kitchen, options, served, keeper
        self._shape = -1, kitchen.ingredients
        self._bar = kitchen.bar(options.epochs, title)

    def alpha(self, point: Tensor) -> Tensor:
        """Alpha (G, N) at a point."""
        return compute_alpha(point.view(self._shape), self._options.weights)

    def __call__(self, point: Tensor, rate: float = math.nan, natural: bool = False) -> tuple[float, Tensor]:
        start, options = time.perf_counter(), self._options
        view, mask = self._served.now()
        point = point.clone().requires_grad_()
        alpha = self.alpha(point)
        if natural:  # the value is alpha's, the gradient passes to the point as it is
            raw = point.view(self._shape)
            alpha = alpha.detach() + (raw - raw.detach())
        told = self._kitchen.loss(alpha, options.alpha, view, options.logit_scale, mask)
        total = told.loss
        if options.regularise:
            total = total + options.regularise * squared_distance_to_uniform(alpha)
        point.grad = torch.zeros_like(point)
        self._kitchen.backward(total, view)
        self._keeper.evaluated(alpha.detach(), float(total.detach()), told.held_out)
        loss, seconds = float(told.loss.detach()), time.perf_counter() - start
        self.history.append(Step(len(self.history) + 1, loss, told.accuracy, rate, seconds))
        self._bar.advance(f"loss {loss:.4f}")
        if options.optimiser == "lbfgs":  # whose evaluations are not all steps
            self.traced()
        return float(total.detach()), point.grad

    def moved(self, point: Tensor) -> None:
        """A step led here."""
        self._keeper.moved(self.alpha(point))
        self.traced()

    def traced(self) -> None:
        """Tell the kitchen what would be returned now."""
        self._kitchen.trace(len(self.history), self._keeper.alpha)

    @property
    def finished(self) -> bool:
        """Whether no evaluation is left at all."""
        return len(self.history) >= self._options.epochs

    @property
    def spent(self) -> bool:
        """Whether no evaluation is left on this view."""
        return self.finished or self._served.used_up

    def close(self) -> None:
        """Take the bar off."""
        self._bar.close()
