"""OGB's layout of NumPy archives (ogbn-papers100M), read member by member, features in blocks."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.data.sources.context import SourceContext
from gnnsoup_hpc.data.sources.ogb.catalogue import OgbDataset
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import FileRows, Rows, blocks, index_type

_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, KeyError, zipfile.BadZipFile)


def read(
    home: Path, about: OgbDataset, desk: SourceContext
) -> tuple[IndexArray, IndexArray, Rows, IntArray, list[Path]]:
    """(sources, destinations, features, labels, files that were read)."""
    data, label = home / "raw" / "data.npz", home / "raw" / "node-label.npz"
    with _archive(data) as archive:
        nodes = int(_whole(archive, "num_nodes_list")[0])
        ends = _ends(archive, nodes)
        x = _features(archive, nodes, desk)
    with _archive(label) as archive:
        y = _whole(archive, "node_label").reshape(-1).astype(np.float64)
        if len(y) != nodes:
            raise ValueError(f"it has {len(y)} labels for {nodes} nodes")
    return ends[0], ends[1], x, np.where(np.isnan(y), -1.0, y).astype(np.int64), [data, label]


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _UNREADABLE as error:
        raise GraphError(
            f"{path} is missing, truncated or damaged ({error}): remove the set's folder and prepare again, which"
            " downloads the set anew"
        ) from None


def _ends(archive: zipfile.ZipFile, nodes: int) -> npt.NDArray[Any]:
    """(2, E), int32 where node ids fit."""
    with archive.open("edge_index.npy") as file:
        shape, kind, in_columns = _header(file)
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(f"edge_index has shape {shape}, expected (2, E)")
        ends = np.empty(shape, dtype=index_type(nodes))
        if in_columns:  # pairs of ends one after the other
            for block in blocks(shape[1], 2 * kind.itemsize):
                ends[:, block] = _take(file, kind, 2 * (block.stop - block.start)).reshape(-1, 2).T
            return ends
        flat = ends.reshape(-1)
        for block in blocks(flat.size, kind.itemsize):
            flat[block] = _take(file, kind, block.stop - block.start)
    return ends


def _features(archive: zipfile.ZipFile, nodes: int, desk: SourceContext) -> Rows:
    with archive.open("node_feat.npy") as file:
        shape, kind, in_columns = _header(file)
        if in_columns:
            raise ValueError("node_feat is laid out by columns, and cannot be read in blocks of rows")
        if len(shape) != 2 or shape[0] != nodes:
            raise ValueError(f"node_feat has shape {shape}, expected ({nodes}, F)")
        rows = FileRows.create(desk.scratch / "node-feat", (shape[0], shape[1]), kind)
        for block in blocks(nodes, shape[1] * kind.itemsize):
            count = block.stop - block.start
            rows.write(block.start, _take(file, kind, count * shape[1]).reshape(count, shape[1]))
    return rows


def _whole(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        shape, kind, in_columns = _header(file)
        return _take(file, kind, int(np.prod(shape))).reshape(shape, order="F" if in_columns else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape and type of the array that follows, and whether it is laid out by columns."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, in_columns, kind = reader(file)
    if kind.hasobject:
        raise ValueError("it has an array of Python objects")
    return shape, kind, in_columns


def _take(file: IO[bytes], kind: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    content = file.read(count * kind.itemsize)
    if len(content) != count * kind.itemsize:
        raise EOFError("an array ends too early")
    return np.frombuffer(content, dtype=kind)
