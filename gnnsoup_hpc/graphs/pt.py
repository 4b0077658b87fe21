"""`pt:PATH`: a `torch_geometric.data.Data`, or a dict of its tensors, in a file of torch.save.

Nothing is unpickled but tensors, plain containers and the classes that a `Data` consists of.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnsoup_hpc import paths
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs.desk import Desk
from gnnsoup_hpc.graphs.raw import RawGraph, sha256_of, source_file
from gnnsoup_hpc.job import GraphJob
from gnnsoup_hpc.records import IndexArray, IntArray, Role, Rows, SourceFile
from gnnsoup_hpc.rows import SparseRows

# What torch.load raises for bytes that are no file of torch.save, or half of one.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError, ValueError, LookupError, TypeError),
    *(AttributeError, OverflowError, AssertionError),
)
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about a class that it does not unpickle
_SAVE = "torch.save(data.to_dict(), PATH)"
_ROLES = {"train": Role.TRAIN, "val": Role.VALIDATION, "valid": Role.VALIDATION, "test": Role.TEST}
_MASKS = {f"{name}_mask": role for name, role in _ROLES.items()}
_IDS = {f"{name}_idx": role for name, role in _ROLES.items()}


def read(name: str, job: GraphJob, desk: Desk) -> RawGraph:
    """The graph in the file at path `name`; its masks or ids are the split "stored".

    Raises: GraphError for a file that is missing, unreadable, or wants other classes; for attributes that do not fit.
    """
    path = paths.expand(name, "graph.source")
    data = _tensors(_load(path), str(path))
    return from_data(data, str(path), (source_file(path),), "stored", job)


def from_data(
    data: Mapping[str, Any], where: str, files: tuple[SourceFile, ...], split: str, job: GraphJob
) -> RawGraph:
    """The graph of a `Data`'s attributes; masks and ids become the split named `split`.

    Shapes: x (V, F) dense or sparse, y (V,) or (V, 1), edge_index (2, E), masks (V,) or (V, n) with n splits.
    Raises: GraphError naming the attribute that is missing or does not fit.
    """
    y = _labels(data, where)
    source, destination = _edges(data, where, len(y))
    # A random split is drawn from all labels, so that it matters to nobody which masks there are.
    found = {} if job.split == "random" else _split(data, where, len(y), job.split_index)
    return RawGraph(
        where=where,
        sha256=sha256_of(files),
        x=_features(data, where),
        y=y,
        source=source,
        destination=destination,
        splits={split: found} if found else {},
        files=files,
    )


def brief(error: Exception) -> str:
    """What kind of error of a library it is, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_classes()):
            return torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise GraphError(f"graph.source: there is no file {path} (relative to {Path.cwd()})") from None
    except UNREADABLE as error:
        refused = _REFUSED.search(str(error))
        if refused:
            raise GraphError(
                f"{path}: it holds a {refused[1]}, which is not unpickled, for a pickle can run any code; save plain"
                f" tensors instead: {_SAVE}"
            ) from None
        raise GraphError(f"{path}: not a readable file of torch.save, or a truncated one ({brief(error)})") from None


def _classes() -> list[Any]:
    """What a pickled `Data` consists of and torch does not unpickle yet."""
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    wanted = (Data, DataEdgeAttr, DataTensorAttr, GlobalStorage)
    # torch forgets them all afterwards, those too that PyG has allowed for good and needs.
    return [kind for kind in wanted if kind not in torch.serialization.get_safe_globals()]


def _tensors(content: Any, where: str) -> Mapping[str, Any]:
    """The attributes of a `Data`, of a dict, or of the only graph of an InMemoryDataset's (data, slices, class)."""
    from torch_geometric.data import Data

    if isinstance(content, tuple) and len(content) in (2, 3) and content[1] is None:
        content = content[0]
    if isinstance(content, Data) and "_store" in vars(content):
        content = content.to_dict()
    if isinstance(content, Mapping):
        return content
    raise GraphError(
        f"{where}: it holds a {type(content).__name__}; expected one torch_geometric Data, or a dict of its tensors:"
        f" {_SAVE}"
    )


def _features(data: Mapping[str, Any], where: str) -> Rows:
    x = _take(data, "x", where)
    if x.ndim != 2 or x.is_complex():
        raise _unfit(where, "x", x, "numbers of shape (V, F)")
    if x.layout is torch.strided or x.dense_dim():
        return np.asarray(x.to_dense().to(torch.float32).numpy())
    entries = x.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    row, column = entries.indices().numpy()
    values = entries.values().to(torch.float32).numpy()
    return SparseRows(sp.csr_matrix((values, (row, column)), shape=tuple(x.shape)))


def _labels(data: Mapping[str, Any], where: str) -> IntArray:
    y = _take(data, "y", where)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        several = "one class a node, (V,), for several labels a node cannot be souped; y.argmax(1) makes one of one-hot"
        raise _unfit(where, "y", y, several)
    if y.is_floating_point() or y.is_complex():
        raise _unfit(where, "y", y, "classes as integers from 0 on, with -1 = no label")
    return np.asarray(y.numpy(), dtype=np.int64)


def _edges(data: Mapping[str, Any], where: str, nodes: int) -> tuple[IndexArray, IndexArray]:
    """(source, destination), int32 where that holds all of them."""
    edges = _take(data, "edge_index", where)
    if edges.ndim != 2 or edges.shape[0] != 2 or not _whole(edges):
        raise _unfit(where, "edge_index", edges, "integers of shape (2, E): sources, destinations")
    ends = edges.numpy()
    # Ids out of range must stay so, for the check of the graph to find them.
    fits = nodes < 2**31 and (not ends.size or (ends.min() >= -(2**31) and ends.max() < 2**31))
    kind = np.int32 if fits else np.int64
    return ends[0].astype(kind), ends[1].astype(kind)


def _split(data: Mapping[str, Any], where: str, nodes: int, index: int) -> dict[Role, IntArray]:
    """Ids by role, of column `index` where masks have several; a mask of shape (V,) is the same for all of them."""
    masks = {key: _take(data, key, where) for key in _MASKS if data.get(key) is not None}
    for key, mask in masks.items():
        if mask.ndim not in (1, 2) or mask.shape[0] != nodes or mask.dtype not in (torch.bool, torch.uint8):
            raise _unfit(where, key, mask, f"booleans of shape ({nodes},) or ({nodes}, n)")
    count = min((mask.shape[1] for mask in masks.values() if mask.ndim == 2), default=1)
    ids = {_IDS[key]: _ids(data, key, where) for key in _IDS if data.get(key) is not None}
    if (masks or ids) and index >= count:
        raise GraphError(
            f"graph.split_index = {index}: {where} has {count} split{'s' if count != 1 else ''}, counted from 0"
        )
    columns = {key: mask if mask.ndim == 1 else mask[:, index] for key, mask in masks.items()}
    return ids | {_MASKS[key]: np.flatnonzero(column.numpy()) for key, column in columns.items()}


def _ids(data: Mapping[str, Any], key: str, where: str) -> IntArray:
    ids = _take(data, key, where)
    if ids.ndim != 1 or not _whole(ids):
        raise _unfit(where, key, ids, "node ids, a row of integers")
    return np.asarray(ids.numpy(), dtype=np.int64)


def _whole(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _take(data: Mapping[str, Any], key: str, where: str) -> Tensor:
    value = data.get(key)
    if value is None:
        has = ", ".join(sorted(str(name) for name in data)) or "nothing"
        raise GraphError(f"{where}: the attribute {key!r} is missing; it has: {has}")
    if not isinstance(value, Tensor):
        raise GraphError(f"{where}: {key} is a {type(value).__name__}; expected a tensor")
    if value.device.type != "cpu" or (key != "x" and value.layout is not torch.strided):
        raise _unfit(where, key, value, "a dense tensor with values")
    return value.detach()


def _unfit(where: str, key: str, value: Tensor, expected: str) -> GraphError:
    kind = str(value.dtype).removeprefix("torch.")
    return GraphError(f"{where}: {key} holds {kind} of shape {tuple(value.shape)}; expected {expected}")
