"""What each ingredient of a job is trained with."""

from __future__ import annotations

from dataclasses import fields, replace

from gnnsoup_hpc.job.sections import Job
from gnnsoup_hpc.records import Hyperparameters


def hyperparameters(job: Job, index: int) -> Hyperparameters:
    """What ingredient `index` is trained with: the job's values, or its turn of what the job varies."""
    base = Hyperparameters(**{known.name: getattr(job.train, known.name) for known in fields(Hyperparameters)})
    varied = {name: values[index % len(values)] for name, values in dict(job.train.vary).items() if values}
    return replace(base, **varied)
