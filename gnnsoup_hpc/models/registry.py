"""Models by the names that a job and a file give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

from gnnsoup_hpc.config import ModelJob
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.models.factory import find_factory
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.kinds import MODULE, is_stack
from gnnsoup_hpc.models.module import ModuleModel, make_module_model
from gnnsoup_hpc.utils.hashing import canonical

_OF_STACKS = tuple(field.name for field in fields(Architecture) if field.name != "weighted")  # of a model, in files


def make_model(
    job: ModelJob,
    features: int,
    outputs: int,
    count_degrees: Callable[[], tuple[int, ...]] | None = None,
    weighted: bool = False,
    edge_features: int = 0,
) -> Model:
    """The job's model for a graph with so many features and outputs a node, and such in-degrees.

    weighted: whether its edges have weights; edge_features: how many features each has.
    """
    if is_stack(job, edge_features > 0):
        return Architecture(job.kind, job.layers, features, job.hidden, outputs, job.heads, job.norm, weighted)
    degrees = (0, 1) if count_degrees is None else count_degrees()
    also: dict[str, Any] = {"arguments": canonical(job.arguments), "takes": job.takes, "weighted": weighted}
    also |= {"groups_by": job.groups, "degrees": degrees, "edge_features": edge_features}
    if job.kind != MODULE:
        sizes: dict[str, Any] = {"layers": job.layers, "hidden": job.hidden, "heads": job.heads, "norm": job.norm}
        return ModuleModel(job.kind, features, outputs, **sizes, **also)
    own: dict[str, Any] = {"factory": job.factory, "revision": job.revision, "reach": job.hops, "folder": job.folder}
    return ModuleModel(job.kind, features, outputs, **own, **also)


class ModelledGraph(Protocol):
    """What a model must know of a graph: features of nodes and of edges, whether these have weights, in-degrees."""

    features: int
    edge_features: int
    weighted: bool

    def count_degrees(self) -> tuple[int, ...]:
        """How many nodes have in-degree 0, 1, ..."""


def make_model_for(graph: ModelledGraph, job: ModelJob, outputs: int) -> Model:
    """The job's model for a graph that is there."""
    return make_model(job, graph.features, outputs, graph.count_degrees, graph.weighted, graph.edge_features)


def check_model(job: ModelJob) -> None:
    """See that a module's factory is there, before anything else is done. Raises: JobError."""
    if job.kind == MODULE:
        find_factory(job.factory, job.folder)


def read_record(record: Mapping[str, Any], folder: str = "", revision: str = "") -> Model:
    """The model that a file's record describes; folder, revision: as in the job that goes with it.

    Raises: TypeError or KeyError for what is no such record; RunError where a module's code is another by now.
    """
    if "arguments" in record:
        return make_module_model(record, folder, revision)
    return Architecture(**{name: record[name] for name in _OF_STACKS}, weighted=record.get("weighted", False))
