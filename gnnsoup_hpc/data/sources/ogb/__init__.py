"""`ogb:NAME`: OGB's node-property sets with one label a node, read from their raw files (arXiv 2005.00687).

The raw layouts are read here, a chunk of rows at a time, and not by ogb's own classes: those hold every array twice in
memory, load a pickle that torch >= 2.6 refuses, and ask questions on standard input. ogb gives its table of sets
(master.csv) and its Evaluator. Nor does its download serve: it asks before a large set, has no time limit, and takes a
file that is there, half or whole, for the set.
"""

from __future__ import annotations

import shutil
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources.context import SourceContext, stage_download
from gnnsoup_hpc.data.sources.ogb.catalogue import OgbDataset, find_dataset
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceSplit, describe_file, hash_files
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import IndexArray, IntArray, Role
from gnnsoup_hpc.utils import paths
from gnnsoup_hpc.utils.out_of_core import FileRows, Rows, blocks, index_type, reserve

CELLS = 1 << 23  # of a table, read together
_TIMEOUT_SECONDS = 60.0
_CITES = "relations/paper___cites___paper"
# What pandas, gzip, zlib, zipfile and NumPy raise for a file that is truncated or damaged.
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, LookupError, zipfile.BadZipFile)
_SPLIT = {"train": Role.TRAIN, "valid": Role.VALIDATION, "test": Role.TEST}
_HINT = "remove the folder {} and prepare again, which downloads the set anew"


def read(name: str, job: GraphJob, context: SourceContext) -> RawGraph:
    """The set `name` under `graph.root`, with OGB's split; downloaded first where it is not there.

    Raises: GraphError for an unknown or multi-label set, a missing, truncated or corrupted file.
    """
    about = _find_set(name)
    home = _find_home(about, job, context)
    read_layout = _read_binary if about.binary else _read_tables
    source, destination, x, y, used = read_layout(home, about, context)
    folder = home / "split" / about.split / ("paper" if about.is_hetero else "")
    split = {role: _read_column(folder / f"{part}.csv.gz", "split") for part, role in _SPLIT.items()}
    files = tuple(describe_file(path) for path in [*used, *(folder / f"{part}.csv.gz" for part in _SPLIT)])
    return RawGraph(
        where=str(home),
        sha256=hash_files(files),
        x=x,
        y=y,
        source=source,
        destination=destination,
        classes=about.classes,
        splits={"public": SourceSplit.of(split)},
        files=files,
        inverse=about.add_inverse_edge,
    )


def _find_set(name: str) -> OgbDataset:
    sets = find_dataset()
    if name not in sets:
        raise GraphError(f"graph.source = 'ogb:{name}': OGB has no such set; it has: {', '.join(sets)}")
    if sets[name].tasks != 1 or sets[name].task != "multiclass classification":
        raise GraphError(
            f"graph.source = 'ogb:{name}': its nodes have {sets[name].tasks} {sets[name].task} labels each; only sets"
            " with one class a node can be souped here"
        )
    return sets[name]


def _find_home(about: OgbDataset, job: GraphJob, context: SourceContext) -> Path:
    """The set's folder, complete and of the version that ogb knows."""
    root = paths.expand(job.root, "graph.root")
    folders = [root / f"{about.folder}_pyg", root / about.folder]  # ogb looks in this order
    home = next((folder for folder in folders if folder.is_dir()), folders[-1])
    if not home.exists():
        _download(about, home, context)
    if not (home / f"RELEASE_v{about.version}.txt").is_file():
        raise GraphError(
            f"{home} is not a complete version {about.version} of {about.name}: RELEASE_v{about.version}.txt is missing"
            f" (half downloaded, or another version); {_HINT.format(home)}"
        )
    return home


def _download(about: OgbDataset, home: Path, context: SourceContext) -> None:
    """Download and unpack a set to `home`, which appears only once it is whole; nothing is asked.

    Raises: GraphError where downloads are not allowed, or fail.
    """
    if context.offline:
        context.announce_download(about.name, home, "size unknown")
    try:
        with stage_download(home) as private:
            archive = private / "archive.zip"
            with urllib.request.urlopen(about.url, timeout=_TIMEOUT_SECONDS) as answer, archive.open("wb") as file:
                size = int(answer.headers["Content-Length"])
                context.announce_download(about.name, home, f"{size / 2**20:.1f} MiB from {about.url}")
                reserve(file.fileno(), size)
                shutil.copyfileobj(answer, file)
                if file.tell() != size:
                    raise OSError(f"the connection ended after {file.tell()} of {size} bytes")
            with zipfile.ZipFile(archive) as content:
                content.extractall(private)
            (private / about.download_name).rename(home)
    except (OSError, zipfile.BadZipFile, TypeError) as error:
        raise GraphError(f"{about.name} cannot be downloaded from {about.url} to {home}: {error}") from None


def _read_tables(
    home: Path, about: OgbDataset, context: SourceContext
) -> tuple[IndexArray, IndexArray, Rows, IntArray, list[Path]]:
    """(sources, destinations, features, labels, files that were read)."""
    raw = home / "raw"
    if about.is_hetero:  # the papers alone, which have the labels, and the citations among them
        edge, feature, label = raw / _CITES, raw / "node-feat/paper", raw / "node-label/paper"
        nodes = _read_count(raw / "num-node-dict.csv.gz", "paper")
    else:
        edge = feature = label = raw
        nodes = _read_count(raw / "num-node-list.csv.gz", None)
    edges = _read_count(edge / "num-edge-list.csv.gz", None)
    paths = [edge / "edge.csv.gz", feature / "node-feat.csv.gz", label / "node-label.csv.gz"]
    ends = _read_edges(paths[0], edges, nodes)
    x = _read_features(paths[1], nodes, context)
    return ends[0], ends[1], x, _read_labels(paths[2], nodes), paths


def _read_column(path: Path, what: str) -> IntArray:
    """The first column of a table of integers."""
    found = [np.asarray(chunk)[:, 0] for chunk in _read_chunks(path, 1, what)]
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)


def _read_edges(path: Path, edges: int, nodes: int) -> npt.NDArray[Any]:
    """(2, E), int32 where node ids fit."""
    ends = np.empty((2, edges), dtype=index_type(nodes))
    for rows, chunk in _read_all(path, edges, 2, "edges"):
        ends[:, rows] = chunk.T
    return ends


def _read_features(path: Path, nodes: int, context: SourceContext) -> Rows:
    written = None
    for rows, chunk in _read_all(path, nodes, 128, "rows"):
        written = written or FileRows.create(context.scratch / "node-feat", (nodes, chunk.shape[1]), np.float64)
        written.write(rows.start, chunk)
    if written is None:
        raise GraphError(f"{path} has no features")
    return written


def _read_labels(path: Path, nodes: int) -> IntArray:
    """Classes; -1 where the table has none."""
    y = np.empty(nodes)
    for rows, chunk in _read_all(path, nodes, 1, "labels"):
        y[rows] = chunk[:, 0]
    return _to_classes(y)


def _to_classes(y: npt.NDArray[Any]) -> IntArray:
    return np.where(np.isnan(y), -1.0, y).astype(np.int64)


def _read_all(path: Path, count: int, width: int, what: str) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Chunks of a table of `count` rows with the rows that they are. Raises: GraphError for fewer rows, or more."""
    at = 0
    for chunk in _read_chunks(path, width, "features" if what == "rows" else what):
        rows = slice(at, at := at + len(chunk))
        if at > count:
            raise _describe_damage(path, ValueError(f"it has more than the {count} {what} that the set states"))
        yield rows, chunk
    if at != count:
        raise _describe_damage(path, ValueError(f"it has {at} {what} where the set states {count}"))


def _read_count(path: Path, name: str | None) -> int:
    """The number that a table of one number holds; with `name`, that of its column `name`."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, compression="gzip", header=None if name is None else 0)
        return int(frame[0 if name is None else name].iloc[0])
    except _UNREADABLE as error:
        raise _describe_damage(path, error) from None


def _read_chunks(path: Path, width: int, what: str) -> Iterator[npt.NDArray[Any]]:
    """A table's rows, some million cells at a time."""
    import pandas as pd

    try:
        with pd.read_csv(path, compression="gzip", header=None, chunksize=max(1, CELLS // width)) as chunks:
            for chunk in chunks:
                values = chunk.to_numpy()
                if values.dtype.kind not in "fiu":
                    raise ValueError(f"{what} that are no numbers")
                yield values
    except _UNREADABLE as error:
        raise _describe_damage(path, error) from None


def _describe_damage(path: Path, error: BaseException) -> GraphError:
    reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
    return GraphError(
        f"{path} is missing, truncated or damaged ({reason}): remove the set's folder and prepare again, which"
        " downloads the set anew"
    )


def _read_binary(
    home: Path, about: OgbDataset, context: SourceContext
) -> tuple[IndexArray, IndexArray, Rows, IntArray, list[Path]]:
    """(sources, destinations, features, labels, files that were read)."""
    data, label = home / "raw" / "data.npz", home / "raw" / "node-label.npz"
    with _open_archive(data) as archive:
        nodes = int(_read_whole(archive, "num_nodes_list")[0])
        ends = _read_ends(archive, nodes)
        x = _read_feature_rows(archive, nodes, context)
    with _open_archive(label) as archive:
        y = _read_whole(archive, "node_label").reshape(-1).astype(np.float64)
        if len(y) != nodes:
            raise ValueError(f"it has {len(y)} labels for {nodes} nodes")
    return ends[0], ends[1], x, _to_classes(y), [data, label]


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _UNREADABLE as error:
        raise _describe_damage(path, error) from None


def _read_ends(archive: zipfile.ZipFile, nodes: int) -> npt.NDArray[Any]:
    """(2, E), int32 where node ids fit."""
    with archive.open("edge_index.npy") as file:
        shape, kind, in_columns = _read_header(file)
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(f"edge_index has shape {shape}, expected (2, E)")
        ends = np.empty(shape, dtype=index_type(nodes))
        if in_columns:  # pairs of ends one after the other
            for block in blocks(shape[1], 2 * kind.itemsize):
                ends[:, block] = _read_numbers(file, kind, 2 * (block.stop - block.start)).reshape(-1, 2).T
            return ends
        flat = ends.reshape(-1)
        for block in blocks(flat.size, kind.itemsize):
            flat[block] = _read_numbers(file, kind, block.stop - block.start)
    return ends


def _read_feature_rows(archive: zipfile.ZipFile, nodes: int, context: SourceContext) -> Rows:
    with archive.open("node_feat.npy") as file:
        shape, kind, in_columns = _read_header(file)
        if in_columns:
            raise ValueError("node_feat is laid out by columns, and cannot be read in blocks of rows")
        if len(shape) != 2 or shape[0] != nodes:
            raise ValueError(f"node_feat has shape {shape}, expected ({nodes}, F)")
        rows = FileRows.create(context.scratch / "node-feat", (shape[0], shape[1]), kind)
        for block in blocks(nodes, shape[1] * kind.itemsize):
            count = block.stop - block.start
            rows.write(block.start, _read_numbers(file, kind, count * shape[1]).reshape(count, shape[1]))
    return rows


def _read_whole(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        shape, kind, in_columns = _read_header(file)
        return _read_numbers(file, kind, int(np.prod(shape))).reshape(shape, order="F" if in_columns else "C")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape and type of the array that follows, and whether it is laid out by columns."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, in_columns, kind = reader(file)
    if kind.hasobject:
        raise ValueError("it has an array of Python objects")
    return shape, kind, in_columns


def _read_numbers(file: IO[bytes], kind: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    content = file.read(count * kind.itemsize)
    if len(content) != count * kind.itemsize:
        raise EOFError("an array ends too early")
    return np.frombuffer(content, dtype=kind)
