"""`pt:PATH`: a `torch_geometric.data.Data`, or a dict of its tensors, in a file of torch.save.

Nothing is unpickled but tensors, plain containers and the classes that a `Data` consists of.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, EnumType
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources import named
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, describe_file, list_few
from gnnsoup_hpc.errors import UNREADABLE, GraphError
from gnnsoup_hpc.graph.graph import SourceFile
from gnnsoup_hpc.io import pickled
from gnnsoup_hpc.utils import paths

_REFUSED = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about a class that it does not unpickle
_SAVE = "torch.save(data.to_dict(), PATH)"
_DICT = "torch.save({'x': x, 'y': y, 'edge_index': edge_index}, PATH)"
_HETERO = (
    "it holds a HeteroData, a graph of several types of nodes; save the nodes of one type T and the edges R among them:"
    " torch.save({'x': data[T].x, 'y': data[T].y, 'edge_index': data[T, R, T].edge_index}, PATH)"
)


def read(name: str, job: GraphJob, context: SourceContext) -> RawGraph:
    """The graph in the file at path `name`; its masks or ids are the split "stored".

    Raises: GraphError for a file that is missing, unreadable, or wants other classes; for attributes that do not fit.
    """
    path = paths.expand(name, "graph.source")
    data = _list_attributes(_load(path), str(path))
    return from_data(data, str(path), (describe_file(path),), "stored", job, context.kind)


def from_data(
    data: Mapping[str, Any],
    where: str,
    files: tuple[SourceFile, ...],
    split: str,
    job: GraphJob,
    task: str = "auto",
) -> RawGraph:
    """The graph of a `Data`'s attributes; masks and ids become the split named `split`, `task` says how y is read.

    Raises: GraphError naming the attribute that is missing or does not fit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # likewise
        arrays = {str(key): _to_array(value) for key, value in data.items()}
    return named.make_graph(arrays, where, files, split, job, task)


def shorten(error: Exception) -> str:
    """What kind of error of a library it is, and the first line of what it says."""
    said = str(error).rpartition("WeightsUnpickler error: ")[2]  # before it torch has general advice
    return f"{type(error).__name__}: {(said.strip().splitlines() or [''])[0][:160]}"


def _load(path: Path) -> Any:
    try:
        with _allow_classes(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's, of kinds of tensors that are new or old to it
            return torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise GraphError(f"graph.source: there is no file {path} (relative to {Path.cwd()})") from None
    except UNREADABLE as error:
        refused = _REFUSED.search(str(error))
        if refused:
            raise GraphError(f"{path}: {_advise(pickled.inspect(refused[1], path))}") from None
        raise GraphError(f"{path}: not a readable file of torch.save, or a truncated one ({shorten(error)})") from None


def _advise(found: pickled.PickleContents) -> str:
    """What holds a class that is not unpickled, and one thing that works."""
    if found.root.endswith(".HeteroData"):
        return _HETERO
    reason = f"a {found.kind}, which is not unpickled, for a pickle can run any code"
    if not found.keys:
        return f"it holds {reason}; save plain tensors instead: {_SAVE}, with data = dataset[0] of a dataset"
    key, keys = found.keys[0], list_few(found.keys)
    holds = "holds" if len(found.keys) == 1 else "each hold"
    tensor = f"data[{key!r}] = torch.as_tensor(data[{key!r}])"
    if key in ("x", "y", "edge_index"):
        return f"{keys} {holds} {reason}; make a tensor of it: {tensor}, then torch.save(data, PATH)"
    also = f" (or, of numbers, {tensor})" if found.kind.startswith("numpy.") else ""
    return f"{keys} {holds} {reason}; leave it out: del data[{key!r}]{also}, then torch.save(data, PATH)"


@contextmanager
def _allow_classes() -> Iterator[None]:
    """Let torch unpickle what a `Data` consists of beside what it unpickles anyhow."""
    ours = _list_classes()  # which imports PyG, and that allows some for good
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*(kind for kind in before if kind is not defaultdict), *ours])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _list_classes() -> list[Any]:
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.feature_store import _FieldStatus
    from torch_geometric.data.graph_store import EdgeLayout
    from torch_geometric.data.storage import AttrType, GlobalStorage

    # Transforms leave caches in a Data, in a defaultdict, which torch does not fill; a dict is as good.
    caches = (AttrType, EdgeLayout, _FieldStatus, (_dict, "collections.defaultdict"), (_member, "builtins.getattr"))
    return [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage, *caches]


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


def _member(kind: Any, name: str) -> Enum:
    """What Python before 3.11.4 pickles a member of an enumeration as: an attribute, here of no other class."""
    if isinstance(kind, EnumType):
        return kind[name]
    raise pickle.UnpicklingError(f"GLOBAL getattr of {kind}")


def _list_attributes(content: Any, where: str) -> Mapping[str, Any]:
    """The attributes of a `Data`, of a dict, or of the only graph of an InMemoryDataset's (data, slices, class)."""
    from torch_geometric.data import Data

    if isinstance(content, tuple) and len(content) in (2, 3) and content[1] is None:
        content = content[0]
    if isinstance(content, Data):
        inside = vars(content)  # of PyG 1 the attributes themselves
        if "_store" in inside:
            return dict(content.to_dict())
        return {key: inside[key] for key in inside if not key.startswith("_")} | {
            "num_nodes": inside.get("__num_nodes__")
        }
    if type(content).__name__ == "HeteroData" or (isinstance(content, Mapping) and "_global_store" in content):
        raise GraphError(f"{where}: {_HETERO}")
    if isinstance(content, Mapping):
        return content
    several = isinstance(content, list | tuple) and any(isinstance(item, Data | Mapping) for item in content)
    save = "one of several: torch.save(data[0], PATH)" if several else _DICT
    raise GraphError(
        f"{where}: it holds a {type(content).__name__}; expected one torch_geometric Data, or a dict of its tensors:"
        f" {save}"
    )


class TensorWithoutValues:
    """In place of a tensor whose values NumPy cannot have."""

    shown = "a tensor on another device, quantised or nested"


def _to_array(value: Any) -> Any:
    """A tensor as a NumPy array or SciPy matrix, numbers as arrays; of dicts and lists what they hold."""
    if isinstance(value, Mapping):
        return {key: _to_array(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        plain = all(isinstance(item, bool | int | float) for item in value)
        return np.asarray(value) if plain else [_to_array(item) for item in value]
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    return _tensor_to_array(value.detach()) if isinstance(value, Tensor) else value


def _tensor_to_array(tensor: Tensor) -> Any:
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        return TensorWithoutValues()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.to(torch.float32)  # bfloat16 and the like, which NumPy does not know
    if tensor.layout is torch.strided or tensor.ndim != 2 or tensor.dense_dim():
        return tensor.to_dense().resolve_conj().resolve_neg().numpy()
    entries = tensor.to_sparse_coo()  # type: ignore[no-untyped-call]
    values = entries._values().float() if tensor.dtype is torch.float16 else entries._values()
    return sp.coo_matrix((values.numpy(), tuple(entries._indices().numpy())), shape=tuple(tensor.shape))
