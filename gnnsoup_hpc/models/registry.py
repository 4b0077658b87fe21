"""Models by the names that a job and a file give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gnnsoup_hpc.config import ModelJob
from gnnsoup_hpc.models.gnn import Architecture

RECORDED = tuple(field.name for field in fields(Architecture))  # of a model, in files


def make_model(job: ModelJob, features: int, outputs: int) -> Architecture:
    """The job's model for a graph with so many features and outputs a node."""
    return Architecture(job.kind, job.layers, features, job.hidden, outputs, job.heads, job.norm)


def read_record(record: Mapping[str, Any]) -> Architecture:
    """The model that a file's record describes. Raises: TypeError or KeyError for what is no such record."""
    return Architecture(**record)
