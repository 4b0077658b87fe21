"""What each ingredient of a job is trained with, and what of [train] has no effect."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from gnnsoup_hpc.config import Job, TrainJob
from gnnsoup_hpc.types import Draw, Start


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


def hyperparameters(job: Job, index: int) -> Hyperparameters:
    """What ingredient `index` is trained with: the job's values, or its turn of what the job varies."""
    base = Hyperparameters(**{known.name: getattr(job.train, known.name) for known in fields(Hyperparameters)})
    varied = {name: values[index % len(values)] for name, values in dict(job.train.vary).items() if values}
    return replace(base, **varied)


def without_effect(job: Job) -> list[str]:
    """Fields of [train] that the job sets to other than their defaults, and that change nothing beside the others."""
    how = job.train
    unused = [] if how.batch == "neighbour" else ["batch_size", "fanout", "sampler"]
    unused += ["clusters"] if how.batch == "full" else []
    if not how.trunk_epochs:  # which is trained with the job's own
        unused += [name for name, values in how.vary if values]
    found = [f"train.{name}" for name in unused if getattr(how, name) != TrainJob.model_fields[name].default]
    if how.batch == "neighbour" and len(how.fanout) > job.model.layers:
        found.append(f"train.fanout beyond its first {job.model.layers}, one a layer")
    return found
