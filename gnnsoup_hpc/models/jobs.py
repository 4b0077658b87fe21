"""[model] of a job, checked against the models that there are. It loads no torch for a job that is right."""

from __future__ import annotations

from collections.abc import Sequence

from gnnsoup_hpc.config import Job, loading
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.models.convolutions import CONVOLUTIONS, find_convolution


def load_job(text: str | None = None, overrides: Sequence[str] = ()) -> Job:
    """The job that `loading.load` finds, its model one that there is. Raises: JobError."""
    return loading.load(text, overrides, tuple(CONVOLUTIONS), check_job)


def check_job(job: Job, where: str) -> None:
    """See that a job has what its kind of model takes; `where` begins the message of a JobError."""
    model = job.model
    if model.heads != 1 and not find_convolution(model.kind).has_heads:
        having = " or ".join(repr(kind) for kind in CONVOLUTIONS if find_convolution(kind).has_heads)
        raise JobError(f"{where}: model: heads = {model.heads} is for kind = {having}; {model.kind} has none")
    if model.norm != "none" and not find_convolution(model.kind).takes_norm:
        raise JobError(f"{where}: model: norm = {model.norm!r} is not for kind = {model.kind!r}; use 'none'")
    for name, first_hop in (("train", job.train.first_hop), ("soup.pls", job.soup.pls.first_hop)):
        if first_hop == "exact" and find_convolution(model.kind).aggregation is None:
            raise JobError(
                f"{where}: {name}.first_hop = 'exact' cannot be had with model.kind = {model.kind!r}: its first layer"
                " has no sum that is the same for all weights, so there is no first hop to keep; use 'truncated'"
            )
