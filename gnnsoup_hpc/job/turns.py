"""What each ingredient of a job is trained with, and what of [train] has no effect."""

from __future__ import annotations

from dataclasses import fields, replace

from gnnsoup_hpc.job.sections import Job
from gnnsoup_hpc.job.training import TrainJob
from gnnsoup_hpc.records import Hyperparameters


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
