"""`pt:PATH`: a PyG Data, or a dictionary of tensors, saved with torch.save; nothing else in the file is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs.data import from_data
from gnnsoup_hpc.graphs.desk import Desk
from gnnsoup_hpc.graphs.raw import RawGraph, source_file
from gnnsoup_hpc.job import GraphJob

# What torch.load raises for bytes that are no archive of its own, or a damaged one.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError)


def read(name: str, job: GraphJob, desk: Desk) -> RawGraph:
    """The graph in the file at path `name`; its masks or ids make the split "stored".

    Raises: GraphError for a file that is missing, damaged, wants classes other than PyG's Data, or lacks a tensor.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise GraphError(f"graph.source: there is no file {path} (relative to {Path.cwd()})")
    return from_data(_content(path), str(path), [source_file(path)], None, "stored", job.split_index)


def _content(path: Path) -> Mapping[str, Any]:
    """What was saved, as a mapping of names to tensors."""
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    try:
        with torch.serialization.safe_globals([Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "class" in line), "")
        raise GraphError(
            f"{path}: damaged, or holds more than tensors and a PyG Data, which is not loaded for safety's sake"
            f" ({refused[:160]}); save it with torch.save(data.to_dict(), PATH)"
        ) from None
    except _UNREADABLE as error:
        raise GraphError(f"{path}: not a readable file of torch.save: {str(error).splitlines()[0]}") from None
    if isinstance(content, Data):
        content = content.to_dict()
    if not isinstance(content, dict):
        raise GraphError(f"{path}: holds a {type(content).__name__}; expected a PyG Data or a dictionary of tensors")
    return content
