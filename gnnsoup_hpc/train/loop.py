"""One ingredient: Adam from where it starts, the weights of the best validation epoch kept; or the trunk of all."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.errors import DivergedError
from gnnsoup_hpc.evaluate import Evaluator
from gnnsoup_hpc.measure import Meter
from gnnsoup_hpc.models import Architecture, Drop
from gnnsoup_hpc.progress import Bar
from gnnsoup_hpc.records import Draw, Epoch, Hyperparameters, Ingredient, Role, State, Trunk
from gnnsoup_hpc.seeds import TRUNK, derived, numpy_generator, torch_generator
from gnnsoup_hpc.subgraph import View
from gnnsoup_hpc.train.batches import Batches
from gnnsoup_hpc.train.edges import thinned


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
    """Train ingredient `index` from `initial`. The same arguments give the same weights, bit for bit, on one machine.

    The best epoch is chosen by the batches' own validation accuracy; the recorded accuracies are exact.
    Raises: DivergedError where not even the first epoch ended with finite weights.
    """
    history: list[Epoch] = []
    best: _Best | None = None
    stopped = "all epochs done"
    with (meter := Meter(course.device)):
        for epoch, parameters in _epochs(course, initial, how, seed, index, bar):
            if math.isnan(epoch.validation_accuracy):
                stopped = _diverged(epoch)
                break
            history.append(epoch)
            if best is None or epoch.validation_accuracy > best.accuracy:
                best = _Best(epoch.epoch, epoch.validation_accuracy, _copy(parameters))
    if best is None:
        raise DivergedError(
            f"ingredient {index} {stopped}, its first: lower train.learning_rate = {how.learning_rate:g}"
        )
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


def train_trunk(course: Course, initial: State, how: Hyperparameters, seed: int, bar: Bar) -> Trunk:
    """Train the state that all ingredients branch from: that of the last epoch, whichever was the best.

    Source: Frankle et al., Linear mode connectivity and the lottery ticket hypothesis, ICML 2020, arXiv 1912.05671.
    Raises: DivergedError where an epoch did not end with finite weights.
    """
    history: list[Epoch] = []
    state = initial
    with (meter := Meter(course.device)):
        for epoch, parameters in _epochs(course, initial, how, seed, TRUNK, bar):
            if math.isnan(epoch.validation_accuracy):
                raise DivergedError(f"the trunk {_diverged(epoch)}: lower train.learning_rate = {how.learning_rate:g}")
            history.append(epoch)
            state = parameters
    return Trunk({name: tensor.cpu() for name, tensor in _copy(state).items()}, tuple(history), meter.measurement)


def _epochs(
    course: Course, initial: State, how: Hyperparameters, seed: int, index: int, bar: Bar
) -> Iterator[tuple[Epoch, State]]:
    """Every epoch with the parameters that it ends at, which the next one changes.

    The first that diverges has NaN for its validation accuracy, and is the last.
    """
    parameters = {name: tensor.to(course.device).clone().requires_grad_() for name, tensor in initial.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=how.learning_rate, weight_decay=how.weight_decay)
    drop = Drop(how.dropout, torch_generator(course.device, seed, _drawer("dropout", how, index)))
    for epoch in range(1, how.epochs + 1):
        start = time.perf_counter()
        views = course.batches.epoch(numpy_generator(seed, _drawer("order", how, index), epoch))
        if how.drop_edges > 0.0:
            views = map(partial(_thinned, how, seed, index, epoch), views, count())
        # map keeps no view under a name, or two would be in memory while one is read
        loss = _mean_loss(map(partial(_step, course.architecture, parameters, optimiser, drop), views))
        reached = math.nan
        if math.isfinite(loss) and _finite(parameters.values()):
            reached = course.batches.validation_accuracy(course.architecture, parameters)
        yield Epoch(epoch, loss, reached, time.perf_counter() - start), parameters
        if math.isnan(reached):
            return
        bar.advance(f"loss {loss:.4f}, validation {reached:.4f}", epoch=epoch, loss=loss, validation=reached)


def _drawer(draw: Draw, how: Hyperparameters, index: int) -> int:
    """Whose random stream an ingredient draws from: its own, or ingredient 0's where all draw alike."""
    return 0 if draw in how.shared_draws else index


def _thinned(how: Hyperparameters, seed: int, index: int, epoch: int, view: View, step: int) -> View:
    """What edge dropping leaves of a step's view."""
    return thinned(view, how.drop_edges, derived(seed, _drawer("edges", how, index), epoch, step))


def _diverged(epoch: Epoch) -> str:
    return f"diverged in epoch {epoch.epoch} (loss {epoch.loss:g})"


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
