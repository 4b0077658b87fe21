"""Learned Souping and Partition Learned Souping: alpha by its gradient, W^l = sum_i alpha_i^l W_i^l.

Both fit alpha by one loop over a stream of batches: LS streams the whole graph, PLS a fresh union of R of K parts every
few evaluations. What counts is the number of evaluations, each a forward and a backward pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from gnnsoup_hpc.config import LearnedJob, PartitionLearnedJob
from gnnsoup_hpc.errors import DivergedError, JobError
from gnnsoup_hpc.io.records import MixingWeights, Step
from gnnsoup_hpc.runtime.progress import Bar
from gnnsoup_hpc.soup.context import LossContext, SoupContext
from gnnsoup_hpc.soup.optim import (
    LastTracker,
    LowestLossTracker,
    MeanTracker,
    choose_start,
    compute_alpha,
    descend,
    search,
    squared_distance_to_uniform,
)


@dataclass(frozen=True)
class Learned:
    """On all validation nodes, or all but those held out."""

    options: LearnedJob = field(default_factory=LearnedJob)
    name: str = "ls"
    source: str = "Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Learned Souping"

    def run(self, context: SoupContext) -> MixingWeights:
        """At most `epochs` forward and backward passes over the whole graph."""
        masks = context.hold_out(self.options.holdout, "soup.ls.holdout")
        with context.batches() as batches:
            return fit(context, self.options, BatchStream(batches, masks), self.name)


@dataclass(frozen=True)
class PartitionLearned:
    """R of K parts a step; the search never has the whole graph in memory."""

    options: PartitionLearnedJob = field(default_factory=PartitionLearnedJob)
    name: str = "pls"
    source: str = "Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Partition Learned Souping"

    def run(self, context: SoupContext) -> MixingWeights:
        """`epochs` forward and backward passes over unions of `union` parts."""
        options, whole = self.options, self.options.union == context.parts
        steps = None if options.optimiser == "lbfgs" else math.ceil(options.epochs / options.reuse)
        masks = context.hold_out(options.holdout, "soup.pls.holdout", options.union)
        window = math.ceil(context.parts / options.union) * options.reuse
        if options.holdout and window > options.epochs:
            raise JobError(
                f"soup.pls.holdout = {options.holdout} judges alpha by the mean of {window} evaluations, about once"
                f" every part, and there are soup.pls.epochs = {options.epochs}: raise epochs, or soup.pls.union"
            )
        with context.batches(options.union, steps, options.prefetch, options.first_hop == "exact") as batches:
            return fit(context, options, BatchStream(batches, masks, whole, options.reuse, window), self.name)


@dataclass
class BatchStream:
    """Batches one after the other, each for `reuse` evaluations, with masks of what is held out of them.

    whole: each is the whole graph, so that losses of two evaluations can be compared.
    window: evaluations that see about every validation node once, over which held-out losses are averaged.
    """

    batches: Iterator[Any]  # plans; None where another rank has it
    masks: Iterator[Tensor | None] = field(default_factory=lambda: repeat(None))
    whole: bool = True
    reuse: int = 1
    window: int = 1
    now: tuple[Any, Tensor | None] | None = None
    uses: int = 0

    def current(self) -> tuple[Any, Tensor | None]:
        """The batch to evaluate on, and the mask of what is held out of it."""
        if self.now is None or self.uses >= self.reuse:
            self.now = None  # before the next one is read
            self.now, self.uses = (next(self.batches), next(self.masks)), 0
        self.uses += 1
        return self.now


def fit(context: LossContext, options: LearnedJob, batches: BatchStream, title: str) -> MixingWeights:
    """Alpha after at most `options.epochs` evaluations by the optimiser of `options`, or the best of those seen.

    Rank-collective. Raises: DivergedError.
    """
    groups = context.groups(options.alpha)
    start = choose_start(options, context.seed, len(groups), context.ids)
    tracker = _choose_tracker(options, batches, compute_alpha(start, options.weights))
    bar = context.bar(options.epochs, title)
    objective, point = _Objective(context, options, batches, tracker, bar), start.flatten()
    if options.optimiser != "lbfgs":
        for moved in descend(objective, point, options):
            objective.note_step(moved)
    elif batches.whole:
        search(objective, point, options.tolerance, options.epochs, context.comm)
    else:  # on each union a search of its own: from where the last one led it would fit itself to the next one alone
        while left := options.epochs - len(objective.history):
            batches.now = None
            found = search(objective, point, options.tolerance, min(left, batches.reuse), context.comm)
            objective.note_step(found)
    bar.close()
    _check_finite(tracker.alpha, objective.history, options, title)
    return MixingWeights(tracker.alpha.cpu(), groups, options.alpha, tuple(objective.history))


def _choose_tracker(options: LearnedJob, batches: BatchStream, alpha_GN: Tensor) -> LastTracker:
    """Losses of different unions cannot be compared, so there what counts is where the steps led."""
    if options.holdout:
        return LowestLossTracker(alpha_GN, batches.window)
    if options.optimiser == "paper":
        return LastTracker(alpha_GN)
    if batches.whole:
        return LowestLossTracker(alpha_GN)
    return MeanTracker(alpha_GN) if options.optimiser == "lbfgs" else LastTracker(alpha_GN)


@dataclass
class _Objective:
    """Loss and gradient at a point (G N,), the raw numbers that an optimiser moves; keeps the history.

    alpha = softmax(raw) of each group, L the loss of the mixture that it weighs: `context.loss_and_gradient` gives
    dL/dalpha[g, i] = <dL/dW^g, W_i^g>, and autograd takes it through the softmax to dL/draw.
    """

    context: LossContext
    options: LearnedJob
    batches: BatchStream
    tracker: LastTracker
    bar: Bar
    history: list[Step] = field(default_factory=list)

    def __call__(self, point: Tensor, rate: float = math.nan) -> tuple[float, Tensor]:
        """At rank 0's point, so that unlike processors cannot drift apart; of EG, the gradient in alpha itself."""
        start, options = time.perf_counter(), self.options
        batch, holdout = self.batches.current()
        point = self.context.comm.bcast(point).clone().requires_grad_()
        raw = point.view(-1, self.context.size)
        alpha = compute_alpha(raw, options.weights)
        if options.optimiser == "eg":  # straight through: alpha's value, without softmax's Jacobian in the gradient
            alpha = alpha.detach() + (raw - raw.detach())
        found = self.context.loss_and_gradient(alpha.detach(), options.alpha, batch, options.logit_scale, holdout)
        total, pulled = found.loss, (alpha * found.gradient).sum()  # whose gradient in alpha is the loss's
        if options.regularise:
            penalty = options.regularise * squared_distance_to_uniform(alpha)
            total += float(penalty.detach())
            pulled = pulled + penalty
        (gradient,) = torch.autograd.grad(pulled, point)  # of a number, for to pull a tensor back torch imports SymPy
        self.tracker.note_loss(alpha.detach(), found.held_out if options.holdout else total)
        seconds = time.perf_counter() - start
        self.history.append(Step(len(self.history) + 1, found.loss, found.metric, rate, seconds))
        self.bar.advance(f"loss {found.loss:.4f}")
        if options.optimiser == "lbfgs":  # whose evaluations are not all steps
            self.context.trace(len(self.history), self.tracker.alpha)
        return total, gradient

    def note_step(self, point: Tensor) -> None:
        """A step led here."""
        self.tracker.note_step(compute_alpha(point.view(-1, self.context.size), self.options.weights))
        self.context.trace(len(self.history), self.tracker.alpha)


def _check_finite(alpha_GN: Tensor, history: list[Step], options: LearnedJob, title: str) -> None:
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
        f"{title} diverged: its loss is not a number from evaluation {lost} on (optimiser = '{options.optimiser}',"
        f" weights = '{options.weights}'); {remedy}, and soup again"
    )
