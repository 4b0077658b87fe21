"""Exact inference on a graph that does not fit, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from gnnsoup_hpc.engine.out_of_core.attention import GeneralLayerwise
from gnnsoup_hpc.engine.out_of_core.held import StoredRows
from gnnsoup_hpc.engine.out_of_core.sums import SumsLayerwise
from gnnsoup_hpc.errors import MemoryLimitError
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.base import LayeredModel, Model
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import IntArray, State

__all__ = ["Layerwise", "is_linear", "make_layerwise"]


class Layerwise(Protocol):
    """Inference within a memory bound on one graph, for one architecture and set of wanted nodes."""

    def scores(self, state: State) -> Iterator[tuple[int, Tensor]]:
        """(place among the wanted nodes, class scores (n, C) from there on), in order."""

    def space(self, name: str, rows: int, width: int) -> StoredRows:
        """Room for a matrix: in memory, or in a file."""


def is_linear(net: Model, device: torch.device) -> bool:
    """Whether the fast way serves: sums with weights that no model learns, by the compiled engine's layers."""
    return isinstance(net, Architecture) and net.kind in ("gcn", "sage") and device.type == "cpu"


def make_layerwise(
    graph: GraphFile, net: Model, memory: int, scratch: Path, device: torch.device, wanted: IntArray
) -> Layerwise:
    """Inference within about `memory` bytes for the nodes `wanted`, rising; the folder `scratch` takes what spills.

    Raises: MemoryLimitError for a model whose layers cannot be computed one by one.
    """
    if not isinstance(net, LayeredModel):
        raise MemoryLimitError(
            f"a model of kind {net.kind!r} cannot be evaluated layer by layer, and the whole graph does not fit: raise"
            " machine.memory_limit"
        )
    if isinstance(net, Architecture) and is_linear(net, device):
        return SumsLayerwise(graph, net, memory, scratch, wanted)
    return GeneralLayerwise(graph, net, memory, scratch, device, wanted)
