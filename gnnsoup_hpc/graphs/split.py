"""Which node trains, validates, tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs.raw import RawGraph
from gnnsoup_hpc.job import GraphJob
from gnnsoup_hpc.records import ByteArray, IntArray, Role


def roles(raw: RawGraph, job: GraphJob) -> ByteArray:
    """Each node's role under the job's split, (V,)."""
    kind = chosen(raw, job)
    if kind == "random":
        return _random(raw.y, job)
    if kind not in raw.splits:
        known = ", ".join(["random", *raw.splits])
        raise GraphError(f"graph.split = {kind!r}: {raw.where} has no such split; it has: {known}")
    return _given(raw, raw.splits[kind])


def chosen(raw: RawGraph, job: GraphJob) -> str:
    """The split that a job means by its name: for `auto`, the first of public, stored, random that the source has."""
    if job.split != "auto":
        return job.split
    return next((kind for kind in ("public", "stored") if kind in raw.splits), "random")


def _random(y: IntArray, job: GraphJob) -> ByteArray:
    """Shares of the labelled nodes in a seeded random order."""
    labelled = np.flatnonzero(y >= 0)
    shuffled = np.random.default_rng(job.split_seed).permutation(labelled)
    train = round(job.train_share * len(shuffled))
    validation = round(job.validation_share * len(shuffled))
    role = np.full(len(y), Role.NONE, dtype=np.uint8)
    role[shuffled[:train]] = Role.TRAIN
    role[shuffled[train : train + validation]] = Role.VALIDATION
    role[shuffled[train + validation :]] = Role.TEST
    return role


def _given(raw: RawGraph, split: Mapping[Role, IntArray]) -> ByteArray:
    role = np.full(len(raw.y), Role.NONE, dtype=np.uint8)
    for name, ids in split.items():
        if len(ids) and (ids.min() < 0 or ids.max() >= len(role)):
            raise GraphError(f"{raw.where}: the split's {name.name.lower()} ids leave the range [0, {len(role)})")
        if (role[ids] != Role.NONE).any():
            node = int(ids[role[ids] != Role.NONE][0])
            raise GraphError(f"{raw.where}: node {node} has two roles in the split")
        role[ids] = name
    return role
