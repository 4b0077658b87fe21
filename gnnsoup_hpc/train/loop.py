"""One ingredient: Adam from the shared initial state, the weights of the best validation epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc import evaluate
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.measure import Meter
from gnnsoup_hpc.models import Architecture, Drop
from gnnsoup_hpc.progress import Bar
from gnnsoup_hpc.records import Epoch, Hyperparameters, Ingredient, State
from gnnsoup_hpc.seeds import torch_generator
from gnnsoup_hpc.subgraph import View


@dataclass(frozen=True)
class Views:
    """The whole graph as each role sees it; features and structure are shared."""

    train: View
    validation: View
    test: View


@dataclass(frozen=True)
class _Best:
    epoch: int
    accuracy: float
    state: State


def train(
    architecture: Architecture, views: Views, initial: State, how: Hyperparameters, seed: int, index: int, bar: Bar
) -> Ingredient:
    """Train ingredient `index`. The same arguments give the same weights, bit for bit, on the same machine.

    Raises: RunError where not even the first epoch ended with finite weights.
    """
    device = views.train.graph.x.device
    parameters = {name: tensor.to(device).clone().requires_grad_() for name, tensor in initial.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=how.learning_rate, weight_decay=how.weight_decay)
    drop = Drop(how.dropout, torch_generator(device, seed, index))
    history: list[Epoch] = []
    best: _Best | None = None
    stopped = "all epochs done"
    with (meter := Meter(device)):
        for epoch in range(1, how.epochs + 1):
            start = time.perf_counter()
            loss = _step(architecture, parameters, views.train, optimiser, drop)
            scores = evaluate.logits(architecture, parameters, views.validation)
            if not math.isfinite(loss) or not _finite([*parameters.values(), scores]):
                stopped = f"diverged in epoch {epoch} (loss {loss:g})"
                break
            reached = evaluate.accuracy(scores, views.validation.labels)
            history.append(Epoch(epoch, loss, reached, time.perf_counter() - start))
            if best is None or reached > best.accuracy:
                best = _Best(epoch, reached, _copy(parameters))
            bar.advance(f"loss {loss:.4f}, validation {reached:.4f}")
    if best is None:
        raise RunError(f"ingredient {index} {stopped}, its first: lower train.learning_rate = {how.learning_rate:g}")
    return Ingredient(
        index=index,
        state={name: tensor.cpu() for name, tensor in best.state.items()},
        history=tuple(history),
        best_epoch=best.epoch,
        validation_accuracy=best.accuracy,
        test_accuracy=evaluate.of_weights(architecture, best.state, views.test),
        hyperparameters=how,
        stopped=stopped,
        measurement=meter.measurement,
    )


def _step(
    architecture: Architecture, parameters: State, view: View, optimiser: torch.optim.Optimizer, drop: Drop
) -> float:
    """One full-batch step; the mean cross-entropy on training nodes."""
    optimiser.zero_grad(set_to_none=True)
    scores: Tensor = architecture.logits(parameters, view.graph, drop)[view.nodes]
    loss = functional.cross_entropy(scores, view.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def _copy(parameters: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
