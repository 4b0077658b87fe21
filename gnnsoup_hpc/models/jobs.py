"""[model] of a job, checked against the models that there are. It loads no torch for a job that is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnnsoup_hpc.config import Job, ModelJob, loading
from gnnsoup_hpc.config.grid import expand_grid
from gnnsoup_hpc.config.loading import Named
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.models.convolutions import find_convolution
from gnnsoup_hpc.models.kinds import MODULE, WITH_EDGE_ATTR, has_heads, is_stack, list_kinds
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils import paths
from gnnsoup_hpc.utils.hashing import canonical

_OF_MODULES = ("factory", "hops", "revision", "folder")
_OF_TORCH = ("takes", "groups")
_OF_CLASSES = ("layers", "hidden", "heads", "norm")


def load_job(named: Named | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Job:
    """The job that `loading.load` finds, its model one that there is. Raises: JobError."""
    return loading.load(named, overrides, list_kinds(), check_job)


def load_job_of_run(root: Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Job:
    """The job of the run in folder `root`, wherever that is now. Raises: JobError; RunError where it is no run."""
    if not RunDir(root).job.is_file():
        raise RunError(f"{root} is not the folder of a run (it has no job.toml): run `gnnsoup run JOB` first")
    place = root if root.name not in ("", "..") else root.resolve()
    job = load_job(RunDir(root).job, overrides)
    return job.model_copy(update={"runs": paths.quote(place.parent), "name": place.name})


def check_job(job: Job, where: str) -> None:
    """See that a job, and each of a sweep of training, has what its kind of model takes.

    `where` begins the message of a JobError.
    """
    try:
        runs = expand_grid(job, list_kinds())
    except ValueError as error:
        raise JobError(f"{where}: {error}") from None
    _check_model(job, where)
    for run in runs:
        _check_model(run.job, f"{where}: with {run.text}")


def _check_model(job: Job, where: str) -> None:
    model, stack = job.model, is_stack(job.model, job.graph.edge_attr == "use")
    _check_fields(model, stack, where)
    if model.heads != 1 and not has_heads(model.kind):
        having = " or ".join(repr(kind) for kind in list_kinds() if has_heads(kind))
        raise JobError(f"{where}: model: heads = {model.heads} is for kind = {having}; {model.kind} has none")
    try:
        canonical(model.arguments)
    except (TypeError, ValueError):
        raise JobError(
            f"{where}: model.arguments = {model.arguments}: give numbers, text, true, false, lists and tables"
        ) from None
    for name, first_hop in (("train", job.train.first_hop), ("soup.pls", job.soup.pls.first_hop)):
        if first_hop == "exact" and (not stack or find_convolution(model.kind).aggregation is None):
            raise JobError(
                f"{where}: {name}.first_hop = 'exact' cannot be had with model.kind = {model.kind!r}: its first layer"
                " has no sum that is the same for all weights, so there is no first hop to keep; use 'truncated'"
            )
    if job.graph.edge_weight == "use" and stack and not find_convolution(model.kind).takes_weights:
        raise JobError(
            f"{where}: graph.edge_weight = 'use': model.kind = {model.kind!r} takes no weights, which gcn, sage and"
            " modules do; use 'ignore'"
        )
    if job.graph.edge_attr == "use":
        _check_edge_attr(model, where)
    if job.soup.align in ("weights", "activations") and not stack:
        raise JobError(
            f"{where}: soup.align = {job.soup.align!r} knows the hidden units of stacks of gcn, sage and gat alone, of"
            " plain options and without features of edges; use 'auto' or 'none'"
        )
    if model.kind == MODULE:
        _check_module(job, where)


def _check_edge_attr(model: ModelJob, where: str) -> None:
    """Refuse what makes no use of features of edges."""
    if model.kind not in (*WITH_EDGE_ATTR, MODULE):
        raise JobError(
            f"{where}: graph.edge_attr = 'use': model.kind = {model.kind!r} takes no features of edges, which"
            f" {', '.join(WITH_EDGE_ATTR)} and modules do; use 'ignore'"
        )
    if model.takes == "sparse":
        raise JobError(
            f"{where}: graph.edge_attr = 'use': model.takes = 'sparse' gives a matrix, which has no features of edges;"
            " use 'edge_index'"
        )


def _check_fields(model: ModelJob, stack: bool, where: str) -> None:
    """Refuse what the kind of model has no use for."""
    unused, what = _OF_MODULES + (_OF_TORCH if stack else ()), "leave it out"
    if model.kind == MODULE:
        unused, what = _OF_CLASSES, "give it in model.arguments, by the name that the factory has"
    plain = " of plain options" if stack else ""
    for name in unused:
        if (value := getattr(model, name)) != ModelJob.model_fields[name].default:
            raise JobError(f"{where}: model.{name} = {value!r} says nothing of kind = {model.kind!r}{plain}: {what}")


def _check_module(job: Job, where: str) -> None:
    model, train = job.model, job.train
    module, _, name = model.factory.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise JobError(
            f"{where}: model.factory = {model.factory!r}: kind = 'module' wants 'package.module:function', which makes"
            " the module"
        )
    default = type(train).model_fields["dropout"].default
    if train.dropout != default or train.vary.dropout:
        raise JobError(
            f"{where}: train.dropout = {list(train.vary.dropout) or train.dropout}: dropout of kind = 'module' is the"
            " module's own: give it in model.arguments, by the name that the factory has"
        )
    if train.batch == "neighbour" and not model.hops:
        raise JobError(f"{where}: train.batch = 'neighbour' samples a hop a layer: give model.hops, their number")
