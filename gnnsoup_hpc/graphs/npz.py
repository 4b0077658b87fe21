"""`npz:PATH`: a graph in one NumPy archive. docs/format.md has the layout."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gnnsoup_hpc import paths
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs.desk import Desk
from gnnsoup_hpc.graphs.raw import RawGraph, source_file
from gnnsoup_hpc.job import GraphJob
from gnnsoup_hpc.records import FloatArray, IntArray, Role, Rows
from gnnsoup_hpc.rows import SparseRows

# What NumPy and zipfile raise for bytes that are no archive, or are one that they cannot read.
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_SPLIT_KEYS = {"train_idx": Role.TRAIN, "valid_idx": Role.VALIDATION, "test_idx": Role.TEST}


def read(name: str, job: GraphJob, desk: Desk) -> RawGraph:
    """The graph in the archive at path `name`.

    Raises: GraphError for a missing, unreadable or incomplete archive, naming the key.
    """
    path = paths.expand(name, "graph.source")
    try:
        archive = np.load(path, allow_pickle=False)
        arrays = {key: archive[key] for key in archive.files} if isinstance(archive, np.lib.npyio.NpzFile) else None
    except FileNotFoundError:
        raise GraphError(f"graph.source: there is no file {path} (relative to {Path.cwd()})") from None
    except _UNREADABLE as error:
        raise GraphError(f"{path}: not a readable .npz archive without pickles: {error}") from None
    if arrays is None:
        raise GraphError(f"{path}: one array, and no .npz archive of several; docs/format.md has the layout")
    file = source_file(path)
    return replace(from_arrays(arrays, str(path), file.sha256), files=(file,))


def from_arrays(arrays: Mapping[str, Any], where: str, sha256: str) -> RawGraph:
    """The graph of the layout's arrays."""
    y = _integers(arrays, "y", where, dimensions=1)
    source, destination = _edges(arrays, where, len(y))
    stored = {role: _integers(arrays, key, where, dimensions=1) for key, role in _SPLIT_KEYS.items() if key in arrays}
    return RawGraph(
        where=where,
        sha256=sha256,
        x=_features(arrays, where, len(y)),
        y=y,
        source=source,
        destination=destination,
        classes=int(_integers(arrays, "num_classes", where, dimensions=0)) if "num_classes" in arrays else None,
        splits={"stored": stored} if stored else {},
    )


def _features(arrays: Mapping[str, Any], where: str, nodes: int) -> Rows:
    if "x" in arrays:
        return _floats(arrays, "x", where)
    indptr, indices = _integers(arrays, "x_indptr", where, 1), _integers(arrays, "x_indices", where, 1)
    data = _floats(arrays, "x_data", where)
    try:
        width = int(indices.max()) + 1 if len(indices) else 0
        if "num_features" in arrays:
            width = int(_integers(arrays, "num_features", where, dimensions=0))
        matrix = sp.csr_matrix((data, indices, indptr), shape=(nodes, width))
        matrix.check_format(full_check=True)
        return SparseRows(matrix)
    except ValueError as error:
        raise GraphError(f"{where}: x_indptr, x_indices, x_data are no CSR matrix of {nodes} rows: {error}") from None


def _edges(arrays: Mapping[str, Any], where: str, nodes: int) -> tuple[IntArray, IntArray]:
    """(source, destination) of every edge, from edge_index (2, E) or from CSR rows of in-neighbours."""
    if "edge_index" in arrays:
        edges = _integers(arrays, "edge_index", where, dimensions=2)
        if len(edges) != 2:
            raise GraphError(f"{where}: edge_index has shape {edges.shape}; expected (2, E): sources, destinations")
        return edges[0], edges[1]
    if "indptr" not in arrays:
        _take(arrays, "edge_index", where)
    indptr, indices = _integers(arrays, "indptr", where, 1), _integers(arrays, "indices", where, 1)
    counts = np.diff(indptr)
    if len(indptr) != nodes + 1 or indptr[0] != 0 or (counts < 0).any() or indptr[-1] != len(indices):
        raise GraphError(f"{where}: indptr must rise from 0 to {len(indices)} in {nodes + 1} steps")
    return indices, np.repeat(np.arange(nodes), counts)


def _floats(arrays: Mapping[str, Any], key: str, where: str) -> FloatArray:
    array = _take(arrays, key, where)
    if array.dtype.kind not in "fiub":
        raise GraphError(f"{where}: {key} holds {array.dtype}; expected numbers")
    return np.asarray(array, dtype=np.float32)


def _integers(arrays: Mapping[str, Any], key: str, where: str, dimensions: int) -> IntArray:
    array = _take(arrays, key, where)
    if array.dtype.kind not in "iu" or array.ndim != dimensions:
        kind = ("a single integer", "a row of integers", "a matrix of integers")[dimensions]
        raise GraphError(f"{where}: {key} holds {array.dtype} of shape {array.shape}; expected {kind}")
    return np.asarray(array, dtype=np.int64)


def _take(arrays: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in arrays:
        raise GraphError(f"{where}: the array {key!r} is missing; it has: {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays[key]
