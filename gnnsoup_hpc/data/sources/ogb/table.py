"""OGB's layout of gzipped tables (ogbn-arxiv, ogbn-products, and ogbn-mag's papers), read a chunk of rows at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.data.sources.context import SourceContext
from gnnsoup_hpc.data.sources.ogb.catalogue import OgbDataset
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import FileRows, Rows, index_type

# What pandas, gzip and zlib raise for a table that is truncated or damaged.
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError)
_CELLS = 1 << 23
_CITES = "relations/paper___cites___paper"


def read(
    home: Path, about: OgbDataset, desk: SourceContext
) -> tuple[IndexArray, IndexArray, Rows, IntArray, list[Path]]:
    """(sources, destinations, features, labels, files that were read)."""
    raw = home / "raw"
    if about.is_hetero:  # the papers alone, which have the labels, and the citations among them
        edge, feature, label = raw / _CITES, raw / "node-feat/paper", raw / "node-label/paper"
        nodes = _count(raw / "num-node-dict.csv.gz", "paper")
    else:
        edge = feature = label = raw
        nodes = _count(raw / "num-node-list.csv.gz", None)
    edges = _count(edge / "num-edge-list.csv.gz", None)
    paths = [edge / "edge.csv.gz", feature / "node-feat.csv.gz", label / "node-label.csv.gz"]
    ends = _edges(paths[0], edges, nodes)
    x = _features(paths[1], nodes, desk)
    return ends[0], ends[1], x, _labels(paths[2], nodes), paths


def column(path: Path, what: str) -> IntArray:
    """The first column of a table of integers."""
    found = [np.asarray(chunk)[:, 0] for chunk in _chunks(path, 1, what)]
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)


def _edges(path: Path, edges: int, nodes: int) -> npt.NDArray[Any]:
    """(2, E), int32 where node ids fit."""
    ends = np.empty((2, edges), dtype=index_type(nodes))
    at = 0
    for chunk in _chunks(path, 2, "edges"):
        _fits(path, at + len(chunk), edges, "edges")
        ends[:, at : at + len(chunk)] = chunk.T
        at += len(chunk)
    _complete(path, at, edges, "edges")
    return ends


def _features(path: Path, nodes: int, desk: SourceContext) -> Rows:
    rows, at = None, 0
    for chunk in _chunks(path, 128, "features"):
        rows = rows or FileRows.create(desk.scratch / "node-feat", (nodes, chunk.shape[1]), np.float64)
        _fits(path, at + len(chunk), nodes, "rows")
        rows.write(at, chunk)
        at += len(chunk)
    _complete(path, at, nodes, "rows")
    if rows is None:
        raise GraphError(f"{path} has no features")
    return rows


def _labels(path: Path, nodes: int) -> IntArray:
    """Classes; -1 where the table has none."""
    y = np.concatenate([np.asarray(chunk, dtype=np.float64)[:, 0] for chunk in _chunks(path, 1, "labels")])
    _complete(path, len(y), nodes, "labels")
    return np.where(np.isnan(y), -1.0, y).astype(np.int64)


def _count(path: Path, name: str | None) -> int:
    """The number that a table of one number holds; with `name`, that of its column `name`."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, compression="gzip", header=None if name is None else 0)
        return int(frame[0 if name is None else name].iloc[0])
    except (*_UNREADABLE, KeyError, IndexError) as error:
        raise _damaged(path, error) from None


def _chunks(path: Path, width: int, what: str) -> Iterator[npt.NDArray[Any]]:
    """A table's rows, some million cells at a time."""
    import pandas as pd

    try:
        with pd.read_csv(path, compression="gzip", header=None, chunksize=max(1, _CELLS // width)) as chunks:
            for chunk in chunks:
                values = chunk.to_numpy()
                if values.dtype.kind not in "fiu":
                    raise ValueError(f"{what} that are no numbers")
                yield values
    except _UNREADABLE as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> GraphError:
    reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
    return GraphError(
        f"{path} is missing, truncated or damaged ({reason}): remove the set's folder and prepare again, which"
        " downloads the set anew"
    )


def _fits(path: Path, found: int, wanted: int, what: str) -> None:
    if found > wanted:
        raise _damaged(path, ValueError(f"it has more than the {wanted} {what} that the set states"))


def _complete(path: Path, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise _damaged(path, ValueError(f"it has {found} {what} where the set states {wanted}"))
