"""What each ingredient of a job is trained with, and what of [train] has no effect."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from gnnsoup_hpc.config import Job, TrainJob
from gnnsoup_hpc.config.recipes import make_fields
from gnnsoup_hpc.types import Average, Draw, Labels, Precision, Schedule, Start, TrainOptimiser


@dataclass(frozen=True)
class Hyperparameters:
    """What one ingredient is trained with, `vary` resolved."""

    epochs: int
    learning_rate: float
    weight_decay: float
    dropout: float
    drop_edges: float = 0.0
    shared_draws: tuple[Draw, ...] = ()
    start: Start = "shared"
    trunk_epochs: int = 0
    optimiser: TrainOptimiser = "adam"
    schedule: Schedule = "constant"
    warmup_epochs: int = 0
    clip_norm: float = 0.0
    patience: int = 0
    average: Average = "none"
    average_decay: float = 0.0
    average_from: float = 0.0
    precision: Precision = "float32"
    validate_every: int = 1
    labels: Labels = "training"
    bag: float = 1.0
    drop_features: float = 0.0
    trunk_starts: int = 1

    def judges(self, epoch: int) -> bool:
        """Whether validation follows an epoch, from 1: every so many, and the last.

        Of models that are trained on the labels of validation nodes too, nothing is chosen by these: the last alone.
        """
        return epoch == self.epochs or (self.labels == "training" and epoch % self.validate_every == 0)

    def compute_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, from 1.

        It rises in equal steps over `warmup_epochs`; by "cosine" it then falls along half a cosine, to end near 0.
        Source: Loshchilov and Hutter, ICLR 2017, arXiv 1608.03983, equation 5, without restarts.
        """
        if epoch <= self.warmup_epochs:
            return self.learning_rate * epoch / (self.warmup_epochs + 1)
        if self.schedule == "constant":
            return self.learning_rate
        done = (epoch - 1 - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.learning_rate * (1.0 + math.cos(math.pi * done)) / 2.0

    @property
    def of_trunk(self) -> Hyperparameters:
        """What the trunk is trained with: rate, decay, dropping, optimiser, clipping, precision, labels and starts."""
        return Hyperparameters(
            self.trunk_epochs,
            self.learning_rate,
            self.weight_decay,
            self.dropout,
            self.drop_edges,
            optimiser=self.optimiser,
            clip_norm=self.clip_norm,
            precision=self.precision,
            labels=self.labels,
            drop_features=self.drop_features,
            trunk_starts=self.trunk_starts,
        )


def hyperparameters(job: Job, index: int) -> Hyperparameters:
    """What ingredient `index` is trained with: the job's values, or its turn of what the job varies."""
    base = base_hyperparameters(job)
    varied = {name: values[index % len(values)] for name, values in dict(job.train.vary).items() if values}
    return replace(base, **varied)


def base_hyperparameters(job: Job) -> Hyperparameters:
    """The job's values; of averages, what has no effect is as if it were not there."""
    how = Hyperparameters(**{known.name: getattr(job.train, known.name) for known in fields(Hyperparameters)})
    return replace(
        how,
        average_decay=how.average_decay if how.average == "ema" else 0.0,
        average_from=how.average_from if how.average == "swa" else 0.0,
    )


def without_effect(job: Job) -> list[str]:
    """Fields of [train] that the job sets to other than their defaults, and that change nothing beside the others."""
    how = job.train
    unused = [] if how.batch == "neighbour" else ["batch_size", "fanout", "sampler"]
    unused += ["clusters", "first_hop"] if how.batch == "full" else []
    if not how.trunk_epochs:  # which is trained with the job's own
        unused += [name for name, values in how.vary if values]
    longest = max([how.epochs, *how.vary.epochs])
    if how.labels == "all":  # no epoch is judged
        unused += ["patience", "validate_every"]
    elif max(how.patience, how.validate_every) >= longest:  # nothing is judged after which an end could come
        unused.append("patience")
    if how.average == "swa" and longest - math.floor(how.average_from * longest) <= 1:  # the mean of one
        unused.append("average")
    if how.start == "snapshots" and how.ingredients == 1:
        unused.append("start")
    if longest - how.warmup_epochs == 1:  # an epoch at the rate itself
        unused.append("schedule")
    unused += [] if how.average == "ema" else ["average_decay"]
    unused += [] if how.average == "swa" else ["average_from"]
    found = [f"train.{name}" for name in unused if getattr(how, name) != TrainJob.model_fields[name].default]
    if how.batch == "neighbour" and len(how.fanout) > job.model.layers:
        found.append(f"train.fanout beyond its first {job.model.layers}, one a layer")
    return found + [f"train.recipe's {name}" for name in _list_overruled(how)]


def _list_overruled(how: TrainJob) -> list[str]:
    """Names of what a job's recipe says otherwise than the job."""
    fields = make_fields(how.recipe, how)
    varied = fields.pop("vary", {})
    found = [name for name, value in fields.items() if value != getattr(how, name)]
    return found + [f"vary.{name}" for name, value in varied.items() if value != getattr(how.vary, name)]
