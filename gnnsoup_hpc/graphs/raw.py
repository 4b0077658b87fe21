"""A graph as its source has it, and its way to a checked `Graph`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.records import ByteArray, FloatArray, Graph, IntArray, Role


@dataclass(frozen=True)
class RawGraph:
    """Edges source -> destination as they come. Shapes: x (V, F), y (V,) with -1 = no label, source/destination (E,).

    `splits` holds node ids of roles by the name of the split ("public", "stored").
    """

    where: str
    sha256: str
    x: FloatArray
    y: IntArray
    source: IntArray
    destination: IntArray
    classes: int | None = None
    splits: Mapping[str, Mapping[Role, IntArray]] = field(default_factory=dict)


def file_sha256(path: Path) -> str:
    """SHA-256 of a source file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished(raw: RawGraph, role: ByteArray, source: str, undirected: bool) -> Graph:
    """The checked graph: duplicate edges merged, each row's in-neighbours sorted, reverse edges added where asked.

    Raises: GraphError saying what is wrong with the source, and where.
    """
    classes = _check(raw)
    _check_roles(raw, role)
    nodes = len(raw.y)
    ones = np.ones(len(raw.source), dtype=np.int8)
    matrix = sp.coo_matrix((ones, (raw.destination, raw.source)), shape=(nodes, nodes)).tocsr()
    matrix.data[:] = 1
    if undirected:
        matrix = (matrix + matrix.T).tocsr()
    matrix.sum_duplicates()
    return Graph(
        x=raw.x,
        y=raw.y,
        indptr=matrix.indptr.astype(np.int64),
        indices=matrix.indices.astype(np.int64),
        role=role,
        classes=classes,
        source=source,
        source_sha256=raw.sha256,
    )


def _check(raw: RawGraph) -> int:
    """Check what can be wrong with a source; return the number of classes."""
    nodes = len(raw.y)
    if nodes == 0 or raw.x.ndim != 2 or len(raw.x) != nodes or raw.x.shape[1] == 0:
        raise GraphError(f"{raw.where}: x has shape {raw.x.shape}, y has {nodes} labels; expected (V, F) and (V,)")
    if not np.isfinite(raw.x).all():
        row = int(np.argwhere(~np.isfinite(raw.x))[0, 0])
        raise GraphError(f"{raw.where}: x has a value that is not finite, first at node {row}; clean the features")
    for name, ends in (("source", raw.source), ("destination", raw.destination)):
        if len(ends) and (ends.min() < 0 or ends.max() >= nodes):
            bad = int(ends.min() if ends.min() < 0 else ends.max())
            raise GraphError(f"{raw.where}: an edge's {name} is {bad}, out of range for {nodes} nodes")
    classes = int(raw.y.max()) + 1 if raw.classes is None else raw.classes
    wrong = np.flatnonzero((raw.y < -1) | (raw.y >= classes))
    if len(wrong):
        node = int(wrong[0])
        raise GraphError(
            f"{raw.where}: label {int(raw.y[node])} of node {node} is out of range [0, {classes}) (-1 = no label)"
        )
    if classes < 1:
        raise GraphError(f"{raw.where}: no node has a label")
    if raw.classes is None and classes > nodes:
        raise GraphError(
            f"{raw.where}: label {classes - 1} is out of range: more classes than {nodes} nodes; number them from 0"
        )
    return classes


def _check_roles(raw: RawGraph, role: ByteArray) -> None:
    for wanted in (Role.TRAIN, Role.VALIDATION, Role.TEST):
        if not (role == wanted).any():
            raise GraphError(
                f"{raw.where}: the split has no {wanted.name.lower()} node; training, souping and testing each need"
                " some: change graph.split or its shares"
            )
    unlabelled = np.flatnonzero((role != Role.NONE) & (raw.y < 0))
    if len(unlabelled):
        raise GraphError(f"{raw.where}: node {int(unlabelled[0])} is in the split but has no label")
