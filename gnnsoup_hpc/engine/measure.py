"""Memory that a model of unknown inside takes: measured on small graphs, and extrapolated.

What is allocated while the model computes is counted operation by operation, so the same model gives the same numbers
on any machine. Peaks on four graphs give bytes a node, an entry and, for what compares all nodes with all, a pair.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.models.base import DrawnDropout, Model
from gnnsoup_hpc.types import Mode

# Times what is extrapolated, for what the C library keeps between blocks of many sizes: measured were 1.6 and 1.2.
MARGINS: dict[Mode, float] = {"train": 1.7, "fit": 1.7, "evaluate": 1.25}
_NODES, _DEGREE = 512, 8
_BENT = 1.05  # times what a straight line foretells: beyond it, pairs of nodes have a part


@dataclass(frozen=True)
class Slopes:
    """Bytes of a model's states, gradients included: a fixed part, of a node, of an entry, of a pair of nodes.

    margin: times which they are foretold.
    """

    fixed: float
    node: float
    entry: float
    pair: float
    margin: float

    def extrapolate(self, extent: Extent) -> dict[str, int]:
        """Bytes by what they are for, with the margin."""
        states = self.fixed + self.node * extent.nodes + self.pair * extent.nodes**2
        return {"states": int(self.margin * states), "entries": int(self.margin * self.entry * extent.entries)}


def measure_slopes(model: Model, mode: Mode) -> Slopes:
    """Of a model in a mode, on the CPU. Raises: what the model does."""
    known: Any = model  # to mypy a protocol has no hash
    return _measure_slopes(known, mode)


@lru_cache(maxsize=16)
def _measure_slopes(model: Model, mode: Mode) -> Slopes:
    graphs = (_NODES, _DEGREE), (2 * _NODES, _DEGREE // 2), (_NODES, 2 * _DEGREE), (4 * _NODES, _DEGREE // 4)
    low, wide, dense, long = (_measure_peak(model, mode, *graph) for graph in graphs)
    node = max(0.0, (wide - low) / _NODES)
    entry = max(0.0, (dense - low) / (_NODES * _DEGREE))
    straight = wide + 2 * _NODES * node
    pair = 0.0
    if long > _BENT * straight:  # of a n + p n^2, at n, 2 n and 4 n
        pair = (long - straight) / (6 * _NODES**2)
        node = max(0.0, node - 3 * _NODES * pair)
    fixed = max(0.0, low - node * _NODES - entry * _NODES * _DEGREE - pair * _NODES**2)
    return Slopes(fixed, node, entry, pair, MARGINS[mode])


def _measure_peak(model: Model, mode: Mode, nodes: int, degree: int) -> int:
    """Bytes at the most beside inputs and state, on a ring where each node has its next ones for neighbours."""
    indptr = torch.arange(0, nodes * degree + 1, degree, dtype=torch.int32)
    indices = (torch.arange(nodes)[:, None] + torch.arange(1, degree + 1)).remainder(nodes).sort(1).values
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(nodes, model.features, generator=generator)
    attr = torch.ones(len(indices) * degree, model.edge_features) if model.edge_features else None
    graph = Subgraph(x, Adjacency(indptr, indices.int().flatten(), edge_attr=attr))
    state = model.init_state(0)
    model.forward(state, graph)  # what is made once a graph, and once a process
    held = [x, *state.values(), graph.adjacency.edge_index, *([] if attr is None else [attr])]
    dropout, backward = DrawnDropout(0.5, generator) if mode == "train" else None, mode != "evaluate"
    for name in model.parameters if backward else ():
        state[name].requires_grad_()
    with _Counter(held) as counter, torch.set_grad_enabled(backward):
        found = model.forward(state, graph, dropout, mode)
        if backward:
            found.sum().backward()  # type: ignore[no-untyped-call]
    most: int = counter.most
    return most


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all that is allocated and not yet given back. held: what was there before."""

    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._now = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in held}

    def __torch_dispatch__(
        self, call: Callable[..., Any], types: Any, given: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        made = call(*given, **(named or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)
