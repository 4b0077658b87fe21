"""One ingredient: Adam from where it starts, the weights of the best validation epoch kept; or the trunk of all."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from operator import mul

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.engine import Engine, Plan
from gnnsoup_hpc.errors import DivergedError
from gnnsoup_hpc.evaluation.evaluator import Evaluator, note_judgement
from gnnsoup_hpc.evaluation.tasks import Predicted, score
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io.ingredient import BestEpoch, Checkpoint
from gnnsoup_hpc.io.records import Epoch, Ingredient, Trunk
from gnnsoup_hpc.models.base import Dropout, Model
from gnnsoup_hpc.runtime.profiling import Measurement, Meter, combine
from gnnsoup_hpc.runtime.progress import Bar
from gnnsoup_hpc.train.averages import WeightAverage
from gnnsoup_hpc.train.batches import Batches, drop_features, dropout_edge
from gnnsoup_hpc.train.checkpointing import CheckpointManager, Checkpoints
from gnnsoup_hpc.types import Draw, Role, State, Targets
from gnnsoup_hpc.utils.optimisers import Adam, AdamW
from gnnsoup_hpc.utils.rng import BAG, FEATURES, TRUNK, derive_seed, numpy_generator


@dataclass(frozen=True)
class TrainData:
    """What models are trained and judged on, and the engine that computes them."""

    model: Model
    engine: Engine
    batches: Batches
    evaluator: Evaluator
    device: torch.device

    def differentiate(self, plan: Plan | None, state: State, dropout: Dropout) -> tuple[float, int]:
        """Put a step's gradients into the parameters of `state`; the mean loss on the batch's seed nodes, their number.

        They have none before.
        """
        if plan is None:
            raise ValueError("a batch that no rank computes on")
        logits = self.engine.logits(plan, state, mode="train", dropout=dropout)
        loss = self.evaluator.task.loss(logits, plan.targets, train=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), len(plan.targets)

    @torch.no_grad()
    def validate(self, state: Mapping[str, Tensor]) -> float:
        """The metric over the validation batches' nodes; NaN where a logit is not finite."""
        task, predicted, targets = self.evaluator.task, list[Predicted](), list[Targets]()
        for plan in self.batches.validation():
            logits = self.engine.logits(plan, state)
            targets.append(plan.targets.cpu().numpy())
            del plan  # before the next one is read
            if not bool(logits.isfinite().all()):
                return math.nan
            predicted.append(task.predict(logits).cpu().numpy())
        return task.metric(np.concatenate(predicted), np.concatenate(targets))


def train(
    data: TrainData,
    initial: State,
    how: Hyperparameters,
    seed: int,
    index: int,
    bar: Bar,
    checkpoints: CheckpointManager | None = None,
) -> Ingredient:
    """Train ingredient `index` from `initial`. The same arguments give the same weights, bit for bit, on one machine.

    With `checkpoints`, go on from the one that they find, which changes nothing but seconds and memory.
    The best epoch is chosen by the batches' own validation metric; the recorded ones are exact.
    Raises: DivergedError where not even the first epoch that is judged ended with finite weights; Preempted.
    """
    training = Training(data, initial, how, seed, index)
    diverged, spent = training.run(bar, checkpoints)
    waited = ""
    if training.is_spent:
        since = "" if how.validate_every == 1 else f", judged every {how.validate_every}"
        waited = f"none of the last {how.patience} epochs was better{since}"
    if (best := training.best) is None:
        before = "before its first validation" if how.labels == "training" else "and its last epoch is what is kept"
        raise DivergedError(
            f"ingredient {index} {diverged}, {before}: lower train.learning_rate = {how.learning_rate:g}"
        )
    validation, test = data.evaluator.predictions(lambda: [best.state], (Role.VALIDATION, Role.TEST))
    data.evaluator.release()
    return Ingredient(
        index=index,
        state={name: tensor.cpu() for name, tensor in best.state.items()},
        history=tuple(training.history),
        best_epoch=best.epoch,
        validation_accuracy=validation.metric,
        test_accuracy=test.metric,
        hyperparameters=how,
        stopped=diverged or waited or "all epochs done",
        measurement=spent,
        engine=data.engine.name,
        judged=note_judgement(data.evaluator.task, validation, test),
    )


def train_trunk(
    data: TrainData,
    initial: State,
    how: Hyperparameters,
    seed: int,
    bar: Bar,
    checkpoints: CheckpointManager | None = None,
) -> Trunk:
    """Train the state that all ingredients branch from: that of the last epoch, whichever was the best.

    Source: Frankle et al., Linear mode connectivity and the lottery ticket hypothesis, ICML 2020, arXiv 1912.05671.
    One that diverges says so. Raises: Preempted.
    """
    training = Training(data, initial, how, seed, TRUNK)
    diverged, spent = training.run(bar, checkpoints)
    state = initial if diverged else {name: tensor.detach().cpu() for name, tensor in training.state.items()}
    return Trunk(state, tuple(training.history), spent, diverged)


class Training:
    """One model between epochs: its state, Adam, dropout, an average of weights, and the best epoch so far.

    Batches, bags, dropped edges and features are functions of seed, index and epoch; nothing else has a state.
    """

    def __init__(self, data: TrainData, initial: State, how: Hyperparameters, seed: int, index: int) -> None:
        self._data, self._task = data, data.evaluator.task
        self._how, self._seed, self._index = how, seed, index
        self.state = {
            name: tensor.to(data.device).clone().requires_grad_(name in data.model.parameters)
            for name, tensor in initial.items()
        }
        self.parameters = {name: tensor for name, tensor in self.state.items() if tensor.requires_grad}
        kind = AdamW if how.optimiser == "adamw" else Adam
        self._adam = kind(self.parameters.values(), lr=how.learning_rate, weight_decay=how.weight_decay)
        self._average = WeightAverage(how)
        self._dropout = data.engine.make_dropout(how.dropout, data.device, derive_seed(seed, self._stream("dropout")))
        self._batches = data.batches
        if how.bag < 1.0:
            self._batches = data.batches.draw_bag(how.bag, derive_seed(seed, BAG, self._stream("nodes")))
        self.history: list[Epoch] = []
        self.best: BestEpoch | None = None
        self.diverged = False

    def run(self, bar: Bar, checkpoints: Checkpoints | None) -> tuple[str, Measurement]:
        """All epochs, the first that diverges being the last; which one did, in words; and what all of it cost."""
        with (meter := Meter(self._data.device)):
            return self.run_within(meter, bar, checkpoints)

    def run_within(self, meter: Meter, bar: Bar, checkpoints: Checkpoints | None) -> tuple[str, Measurement]:
        """The same; what it cost is all that the meter has measured since it began, and before by the checkpoint."""
        before = None
        if checkpoints and (found := checkpoints.find(self._data.device)):
            self.restore(found)
            before = found.measurement
            del found  # or its best state would be held twice for as long as this one trains
        bar.begin(len(self.history))

        def measure() -> Measurement:
            return meter.read() if before is None else combine(before, meter.read())

        def check() -> None:
            if checkpoints:
                done = len(self.history)
                over = done == self._how.epochs or self.is_spent
                checkpoints.check(done, over, lambda: self.checkpoint(measure()))

        check()
        while len(self.history) < self._how.epochs and not self.is_spent:
            epoch = self.epoch()
            loss, reached = epoch.loss, epoch.validation_accuracy
            if self.diverged:
                return f"diverged in epoch {epoch.epoch} (loss {loss:g})", measure()
            judged = {} if math.isnan(reached) else {"validation": reached}
            text = f"loss {loss:.4f}" + "".join(f", {name} {value:.4f}" for name, value in judged.items())
            bar.advance(text, epoch=epoch.epoch, loss=loss, **judged)
            check()
        return "", measure()

    @property
    def is_spent(self) -> bool:
        """Whether its patience has come to an end before the last epoch, at one that was judged."""
        done = len(self.history)
        waited = done - self.best.epoch if self.best else 0
        return 0 < self._how.patience <= waited and done < self._how.epochs and self._how.judges(done)

    @property
    def judged(self) -> Mapping[str, Tensor]:
        """The weights that count: the average, where there is one."""
        return self._average.state or self.state

    def epoch(self) -> Epoch:
        """Train one more. One that diverges is not in the history; NaN stands for an accuracy that was not judged."""
        number, start = len(self.history) + 1, time.perf_counter()
        loss, reached = self.take_steps(number), math.nan
        self._average.note_epoch(self.state, number)
        finite = math.isfinite(loss) and all(bool(tensor.isfinite().all()) for tensor in self.state.values())
        judged = finite and self._how.judges(number)
        if judged:
            if self._average.state and self._data.model.statistics:  # an average's are not the average of theirs
                self._average.state = self._data.evaluator.recompute(self._average.state)
            reached = self._data.validate(self.judged)
        self.diverged = not finite or (judged and math.isnan(reached))
        epoch = Epoch(number, loss, reached, time.perf_counter() - start)
        if not self.diverged:
            self.history.append(epoch)
        if not math.isnan(reached) and (
            self.best is None or score(self._task, reached) > score(self._task, self.best.accuracy)
        ):
            state = {name: tensor.detach().clone() for name, tensor in self.judged.items()}
            self.best = BestEpoch(number, reached, state)
        return epoch

    def take_steps(self, epoch: int) -> float:
        """The steps of an epoch, counted from 1; the mean loss over its nodes, before each step."""
        for group in self._adam.param_groups:
            group["lr"] = self._how.compute_rate(epoch)
        edit = partial(self._edit, epoch) if self._how.drop_edges or self._how.drop_features else None
        plans = self._batches.epoch(numpy_generator(self._seed, self._stream("order"), epoch), edit)
        # Of one step, its loss to the bit. Map names no plan, or two would be in memory at once.
        losses, nodes = zip(*map(partial(self._step, epoch), plans, count()), strict=True)
        mean: float = losses[0] if len(losses) == 1 else sum(map(mul, losses, nodes)) / sum(nodes)
        return mean

    def checkpoint(self, spent: Measurement) -> Checkpoint:
        """Where it stands. `spent`: what it has cost until here."""
        adam = dict(zip(self.parameters, self._adam.state_dict()["state"].values(), strict=True))
        return Checkpoint(
            history=tuple(self.history),
            state=self.state,
            steps={name: float(values["step"]) for name, values in adam.items()},
            mean={name: values["exp_avg"] for name, values in adam.items()},
            square={name: values["exp_avg_sq"] for name, values in adam.items()},
            generator=self._dropout.state,
            device=self._data.device.type,
            best=self.best,
            measurement=spent,
            average=self._average.state,
            averaged=self._average.count,
        )

    def restore(self, kept: Checkpoint) -> None:
        """Go on from there."""
        with torch.no_grad():
            for name, tensor in self.state.items():
                tensor.copy_(kept.state[name])
        adam = self._adam.state_dict()
        adam["state"] = {
            place: {"step": torch.tensor(kept.steps[name]), "exp_avg": kept.mean[name], "exp_avg_sq": kept.square[name]}
            for place, name in enumerate(self.parameters)
        }
        self._adam.load_state_dict(adam)
        self._dropout.restore(kept.generator)
        average = {name: tensor.to(self._data.device) for name, tensor in kept.average.items()}
        self._average = WeightAverage(self._how, average, kept.averaged)
        self.history = list(kept.history)
        if kept.best is not None:
            here = {name: tensor.to(self._data.device) for name, tensor in kept.best.state.items()}
            self.best = replace(kept.best, state=here)

    def _stream(self, draw: Draw) -> int:
        """The random stream that is drawn from: the ingredient's own, or ingredient 0's where all draw alike."""
        return 0 if draw in self._how.shared_draws else self._index

    def _edit(self, epoch: int, batch: Batch, step: int) -> Batch:
        """What dropping of edges and features leaves of a step's batch."""
        if rate := self._how.drop_edges:
            batch = dropout_edge(batch, rate, derive_seed(self._seed, self._stream("edges"), epoch, step))
        if rate := self._how.drop_features:
            batch = drop_features(batch, rate, derive_seed(self._seed, FEATURES, self._stream("features"), epoch, step))
        return batch

    def _step(self, epoch: int, plan: Plan | None, step: int) -> tuple[float, int]:
        """One step; the mean loss on the batch's seed nodes, and their number."""
        self._adam.zero_grad(set_to_none=True)
        found = self._data.differentiate(plan, self.state, self._dropout.at(epoch, step))
        if self._how.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._how.clip_norm)
        self._adam.step()
        self._average.note_step(self.state)
        return found
