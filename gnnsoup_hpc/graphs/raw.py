"""A graph as its source has it, and its way to a checked `Graph`.

The structure is in memory as a whole, for METIS needs it so; features are looked at a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.hashing import file_sha256, fingerprint
from gnnsoup_hpc.job import GraphJob
from gnnsoup_hpc.records import ByteArray, Graph, IndexArray, IntArray, Role, Rows, SourceFile
from gnnsoup_hpc.rows import blocks


@dataclass(frozen=True)
class RawGraph:
    """Edges source -> destination as they come. Shapes: x (V, F), y (V,) with -1 = no label, source/destination (E,).

    `splits` holds node ids of roles by the name of the split ("public", "stored"); `sha256` is of all that was read.
    """

    where: str
    sha256: str
    x: Rows
    y: IntArray
    source: IndexArray
    destination: IndexArray
    classes: int | None = None
    splits: Mapping[str, Mapping[Role, IntArray]] = field(default_factory=dict)
    files: tuple[SourceFile, ...] = ()


def source_file(path: Path) -> SourceFile:
    """A file of a source, with its hash."""
    status = path.stat()  # before it is hashed: one that is written meanwhile is looked at again
    return SourceFile(str(path.absolute()), status.st_size, status.st_mtime_ns, file_sha256(path), status.st_ctime_ns)


def sha256_of(files: Sequence[SourceFile]) -> str:
    """The hash of a source: that of its only file, or of the names and hashes of its files."""
    if len(files) == 1:
        return files[0].sha256
    return fingerprint(sorted([Path(file.path).name, file.sha256] for file in files))


def finished(raw: RawGraph, role: ByteArray, job: GraphJob) -> Graph:
    """The checked graph as the job wants it: edges turned, made symmetric, merged; each row's in-neighbours sorted.

    Raises: GraphError saying what is wrong with the source, and where.
    """
    classes = _check(raw)
    _check_roles(raw, role)
    matrix = _structure(raw, job)
    return Graph(
        x=raw.x,
        y=raw.y,
        indptr=matrix.indptr.astype(np.int64),
        indices=matrix.indices,
        role=role,
        classes=classes,
        source=job.source,
        source_sha256=raw.sha256,
        files=raw.files,
        source_edges=len(raw.source),
        symmetric=job.undirected,
    )


def _structure(raw: RawGraph, job: GraphJob) -> sp.csr_matrix:
    """The adjacency, row = destination, sorted, without duplicates."""
    nodes = len(raw.y)
    source, destination = (raw.destination, raw.source) if job.reverse else (raw.source, raw.destination)
    ones = np.ones(len(source), dtype=np.int8)
    matrix = sp.coo_matrix((ones, (destination, source)), shape=(nodes, nodes)).tocsr()
    if job.duplicates == "refuse" and matrix.nnz < len(source):
        raise GraphError(
            f"{raw.where}: {len(source) - matrix.nnz} edges are duplicates, and graph.duplicates = 'refuse'; 'merge'"
            " merges them"
        )
    matrix.data[:] = 1  # a sum of duplicates may have left any int8, zero among them
    if job.self_loops != "keep":
        matrix = _without_diagonal(matrix)
    if job.undirected:
        matrix = (matrix + matrix.T).tocsr()
    if job.self_loops == "add":
        matrix = (matrix + sp.eye(nodes, dtype=np.int8, format="csr")).tocsr()
    matrix.sum_duplicates()
    return matrix


def _without_diagonal(matrix: sp.csr_matrix) -> sp.csr_matrix:
    entries = matrix.tocoo()
    keep = entries.row != entries.col
    return sp.coo_matrix((entries.data[keep], (entries.row[keep], entries.col[keep])), shape=matrix.shape).tocsr()


def _check(raw: RawGraph) -> int:
    """Check what can be wrong with a source; return the number of classes."""
    nodes = len(raw.y)
    if nodes == 0 or len(raw.x.shape) != 2 or raw.x.shape[0] != nodes or raw.x.shape[1] == 0:
        raise GraphError(f"{raw.where}: x has shape {raw.x.shape}, y has {nodes} labels; expected (V, F) and (V,)")
    _check_finite(raw)
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


def _check_finite(raw: RawGraph) -> None:
    for block in blocks(raw.x.shape[0], 4 * raw.x.shape[1]):
        fine = np.isfinite(raw.x[block]).all(1)
        if not fine.all():
            row = block.start + int(np.flatnonzero(~fine)[0])
            raise GraphError(f"{raw.where}: x has a value that is not finite, first at node {row}; clean the features")


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
