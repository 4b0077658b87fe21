"""A PyG Data, or a mapping of tensors with its names, as a RawGraph; shared by `pyg:` and `pt:`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs.raw import RawGraph, sha256_of
from gnnsoup_hpc.records import IntArray, Role, SourceFile
from gnnsoup_hpc.rows import index_type

_MASKS = {"train_mask": Role.TRAIN, "val_mask": Role.VALIDATION, "test_mask": Role.TEST}
_IDS = {"train_idx": Role.TRAIN, "valid_idx": Role.VALIDATION, "test_idx": Role.TEST}


def from_data(
    data: Mapping[str, Any],
    where: str,
    files: Sequence[SourceFile],
    classes: int | None,
    split: str,
    split_index: int,
) -> RawGraph:
    """The graph of x (V, F), y (V,), edge_index (2, E) and masks (V,), or (V, n) of which `split_index` is taken.

    The masks, or ids as train_idx, valid_idx, test_idx, make the split of the name `split`.
    Raises: GraphError naming the attribute that is missing or not right.
    """
    x, y, edges = (_tensor(data, name, where) for name in ("x", "y", "edge_index"))
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() != 1 or y.dtype.is_floating_point or y.dtype == torch.bool:
        raise GraphError(
            f"{where}: y has shape {tuple(y.shape)} and type {y.dtype}; expected one integer class a node, (V,): sets"
            " with several labels a node cannot be souped here"
        )
    if edges.dim() != 2 or edges.shape[0] != 2 or edges.dtype.is_floating_point:
        raise GraphError(
            f"{where}: edge_index has shape {tuple(edges.shape)} of {edges.dtype}; expected (2, E) integers"
        )
    x = x.to_dense() if x.layout != torch.strided else x
    kind = index_type(len(y))
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= len(y)):
        kind = np.int64  # for the check that follows to see what is wrong
    roles = _split(data, where, split_index)
    return RawGraph(
        where=where,
        sha256=sha256_of(files),
        x=x.to(torch.float32).numpy(),
        y=y.to(torch.int64).numpy(),
        source=edges[0].numpy().astype(kind),
        destination=edges[1].numpy().astype(kind),
        classes=classes,
        splits={split: roles} if roles else {},
        files=tuple(files),
    )


def _tensor(data: Mapping[str, Any], name: str, where: str) -> Tensor:
    value = data.get(name)
    if value is None:
        there = ", ".join(sorted(key for key in data if isinstance(data[key], Tensor))) or "none"
        raise GraphError(f"{where}: {name} is missing; tensors that are there: {there}")
    if not isinstance(value, Tensor):
        raise GraphError(f"{where}: {name} is a {type(value).__name__}; expected a tensor")
    return value.detach()


def _split(data: Mapping[str, Any], where: str, split_index: int) -> dict[Role, IntArray]:
    """Node ids of each role; nothing where neither masks nor ids are there."""
    if all(data.get(name) is not None for name in _IDS):
        return {role: _tensor(data, name, where).to(torch.int64).numpy() for name, role in _IDS.items()}
    if any(data.get(name) is None for name in _MASKS):
        return {}
    return {role: _chosen(_tensor(data, name, where), name, where, split_index) for name, role in _MASKS.items()}


def _chosen(mask: Tensor, name: str, where: str, split_index: int) -> IntArray:
    """Ids where a mask is set; of a mask with a column a split, where that column is."""
    if mask.dim() == 2:
        if split_index >= mask.shape[1]:
            raise GraphError(
                f"graph.split_index = {split_index}: {where} has {mask.shape[1]} splits, 0 to {mask.shape[1] - 1}"
            )
        mask = mask[:, split_index]
    if mask.dim() != 1:
        raise GraphError(f"{where}: {name} has shape {tuple(mask.shape)}; expected (V,) or (V, number of splits)")
    return np.flatnonzero(mask.to(torch.bool).numpy())
