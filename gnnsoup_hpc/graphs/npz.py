"""`npz:PATH`: a graph in one NumPy archive. docs/format.md has the layout."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs.raw import RawGraph, file_sha256
from gnnsoup_hpc.records import FloatArray, IntArray, Role

_SPLIT_KEYS = {"train_idx": Role.TRAIN, "valid_idx": Role.VALIDATION, "test_idx": Role.TEST}


def read(name: str) -> RawGraph:
    """The graph in the archive at path `name`.

    Raises: GraphError for a missing, unreadable or incomplete archive, naming the key.
    """
    path = Path(name).expanduser()
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise GraphError(f"graph.source: there is no file {path} (relative to {Path.cwd()})") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GraphError(f"{path}: not a readable .npz archive without pickles: {error}") from None
    return from_arrays(arrays, str(path), file_sha256(path))


def from_arrays(arrays: Mapping[str, Any], where: str, sha256: str) -> RawGraph:
    """The graph of the layout's arrays."""
    y = _integers(arrays, "y", where)
    source, destination = _edges(arrays, where, len(y))
    stored = {role: _integers(arrays, key, where) for key, role in _SPLIT_KEYS.items() if key in arrays}
    return RawGraph(
        where=where,
        sha256=sha256,
        x=_features(arrays, where, len(y)),
        y=y,
        source=source,
        destination=destination,
        classes=int(_integers(arrays, "num_classes", where)) if "num_classes" in arrays else None,
        splits={"stored": stored} if stored else {},
    )


def _features(arrays: Mapping[str, Any], where: str, nodes: int) -> FloatArray:
    if "x" in arrays:
        return np.asarray(_take(arrays, "x", where), dtype=np.float32)
    indptr, indices = _integers(arrays, "x_indptr", where), _integers(arrays, "x_indices", where)
    data = np.asarray(_take(arrays, "x_data", where), dtype=np.float32)
    try:
        width = int(indices.max()) + 1 if len(indices) else 0
        return np.asarray(sp.csr_matrix((data, indices, indptr), shape=(nodes, width)).toarray(), dtype=np.float32)
    except ValueError as error:
        raise GraphError(f"{where}: x_indptr, x_indices, x_data are no CSR matrix of {nodes} rows: {error}") from None


def _edges(arrays: Mapping[str, Any], where: str, nodes: int) -> tuple[IntArray, IntArray]:
    """(source, destination) of every edge, from edge_index (2, E) or from CSR rows of in-neighbours."""
    if "edge_index" in arrays:
        edges = _integers(arrays, "edge_index", where)
        if edges.ndim != 2 or len(edges) != 2:
            raise GraphError(f"{where}: edge_index has shape {edges.shape}; expected (2, E): sources, destinations")
        return edges[0], edges[1]
    indptr, indices = _integers(arrays, "indptr", where), _integers(arrays, "indices", where)
    counts = np.diff(indptr)
    if len(indptr) != nodes + 1 or indptr[0] != 0 or (counts < 0).any() or indptr[-1] != len(indices):
        raise GraphError(f"{where}: indptr must rise from 0 to {len(indices)} in {nodes + 1} steps")
    return indices, np.repeat(np.arange(nodes), counts)


def _integers(arrays: Mapping[str, Any], key: str, where: str) -> IntArray:
    array = _take(arrays, key, where)
    if array.dtype.kind not in "iu":
        raise GraphError(f"{where}: {key} holds {array.dtype}; expected integers")
    return np.asarray(array, dtype=np.int64)


def _take(arrays: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in arrays:
        raise GraphError(f"{where}: the array {key!r} is missing; it has: {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays[key]
