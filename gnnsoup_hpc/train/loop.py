"""One ingredient: Adam from the shared initial state, the weights of the best validation epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluate import Evaluator
from gnnsoup_hpc.measure import Meter
from gnnsoup_hpc.models import Architecture, Drop
from gnnsoup_hpc.progress import Bar
from gnnsoup_hpc.records import Epoch, Hyperparameters, Ingredient, Role, State
from gnnsoup_hpc.seeds import numpy_generator, torch_generator
from gnnsoup_hpc.subgraph import View
from gnnsoup_hpc.train.batches import Batches


@dataclass(frozen=True)
class Course:
    """What ingredients of a run are trained and judged on."""

    architecture: Architecture
    batches: Batches
    evaluator: Evaluator
    device: torch.device


@dataclass(frozen=True)
class _Best:
    epoch: int
    accuracy: float
    state: State


def train(course: Course, initial: State, how: Hyperparameters, seed: int, index: int, bar: Bar) -> Ingredient:
    """Train ingredient `index`. The same arguments give the same weights, bit for bit, on the same machine.

    The best epoch is chosen by the batches' own validation accuracy; the recorded accuracies are exact.
    Raises: RunError where not even the first epoch ended with finite weights.
    """
    parameters = {name: tensor.to(course.device).clone().requires_grad_() for name, tensor in initial.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=how.learning_rate, weight_decay=how.weight_decay)
    drop = Drop(how.dropout, torch_generator(course.device, seed, index))
    history: list[Epoch] = []
    best: _Best | None = None
    stopped = "all epochs done"
    with (meter := Meter(course.device)):
        for epoch in range(1, how.epochs + 1):
            start = time.perf_counter()
            views = course.batches.epoch(numpy_generator(seed, index, epoch))
            # map keeps no view under a name, or two would be in memory while one is read
            loss = _mean_loss(map(partial(_step, course.architecture, parameters, optimiser, drop), views))
            reached = math.nan
            if math.isfinite(loss) and _finite(parameters.values()):
                reached = course.batches.validation_accuracy(course.architecture, parameters)
            if math.isnan(reached):
                stopped = f"diverged in epoch {epoch} (loss {loss:g})"
                break
            history.append(Epoch(epoch, loss, reached, time.perf_counter() - start))
            if best is None or reached > best.accuracy:
                best = _Best(epoch, reached, _copy(parameters))
            bar.advance(f"loss {loss:.4f}, validation {reached:.4f}")
    if best is None:
        raise RunError(f"ingredient {index} {stopped}, its first: lower train.learning_rate = {how.learning_rate:g}")
    validation, test = course.evaluator.accuracies(best.state, (Role.VALIDATION, Role.TEST))
    return Ingredient(
        index=index,
        state={name: tensor.cpu() for name, tensor in best.state.items()},
        history=tuple(history),
        best_epoch=best.epoch,
        validation_accuracy=validation,
        test_accuracy=test,
        hyperparameters=how,
        stopped=stopped,
        measurement=meter.measurement,
    )


def _step(
    architecture: Architecture, parameters: State, optimiser: torch.optim.Optimizer, drop: Drop, view: View
) -> tuple[float, int]:
    """One step; the mean cross-entropy on the view's nodes, and their number."""
    optimiser.zero_grad(set_to_none=True)
    scores: Tensor = architecture.logits(parameters, view.graph, drop)[view.nodes]
    loss = functional.cross_entropy(scores, view.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach()), len(view.nodes)


def _mean_loss(steps: Iterable[tuple[float, int]]) -> float:
    """Mean over an epoch's nodes; of one step, its loss to the bit."""
    done = list(steps)
    return done[0][0] if len(done) == 1 else sum(loss * nodes for loss, nodes in done) / sum(n for _, n in done)


def _copy(parameters: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
