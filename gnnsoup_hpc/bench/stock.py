"""The stock path: torch_geometric.nn's own GCN, GraphSAGE and GAT, used as well as PyG allows, nothing of ours.

GCN and GraphSAGE take a sparse CSR adjacency (row = destination), GAT takes edge_index. GCN's is int32 where it holds,
for PyTorch's products compute in that; GraphSAGE's is not, for the gradient of a mean along rows is wrong with int32
(torch 2.13, without a word; finite differences of the loss show it). GCN's normalisation is computed once a graph, by
PyG, so it is switched off in its layers.
Learned souping mixes with plain operations, so that autograd reaches the raw alphas. PLS holds the whole graph in
memory and takes unions from PyG's ClusterLoader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module
from torch_geometric import typing
from torch_geometric.data import Data
from torch_geometric.loader import ClusterData, ClusterLoader, NeighborLoader
from torch_geometric.loader.cluster import Partition
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_torch_csr_tensor
from torch_geometric.utils.map import map_index

from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import Cell
from gnnsoup_hpc.config import TaskJob
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.tasks import Multiclass, Task, make_task
from gnnsoup_hpc.graph.subgraph import MEAN, NORMALISED_SUM, Aggregation
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Role, State
from gnnsoup_hpc.utils.out_of_core import index_type


@dataclass(frozen=True)
class StockHeld:
    """A graph in memory. Shapes: x (V, F), adjacency (V, V) sparse CSR or edge_index (2, E), nodes (n,), labels (n, …).

    task: what labels mean.
    """

    x: Tensor
    adjacency: Tensor
    nodes: Tensor
    labels: Tensor
    task: Task = field(default_factory=lambda: Multiclass(0))


def make_module(architecture: Architecture) -> Module:
    """PyG's module, for evaluation; GCN's layers expect an adjacency that is normalised already."""
    module: Any = architecture.to_module().eval()
    if architecture.aggregation is NORMALISED_SUM:
        for convolution in module.convs:
            convolution.normalize = convolution.add_self_loops = False
    made: Module = module
    return made


def make_adjacency(aggregation: Aggregation | None, edge_index: Tensor, nodes: int) -> Tensor:
    """What the stock module takes best for edge_index (2, E): sources, destinations."""
    if aggregation is None:
        return edge_index
    if aggregation is MEAN:
        wide: Tensor = to_torch_csr_tensor(edge_index.flip(0), None, (nodes, nodes))
        return wide
    edge_index, weight = gcn_norm(edge_index, None, nodes)
    csr = to_torch_csr_tensor(edge_index.flip(0), weight, (nodes, nodes))
    kind = torch.from_numpy(np.empty(0, index_type(csr.values().numel()))).dtype
    indptr, indices = csr.crow_indices().to(kind), csr.col_indices().to(kind)
    return torch.sparse_csr_tensor(indptr, indices, csr.values(), csr.shape, check_invariants=False)


def load_whole(graph: GraphFile, architecture: Architecture, role: Role = Role.VALIDATION) -> StockHeld:
    """The whole graph, with the nodes of a role."""
    data = _read_data(graph)
    indptr, indices = (torch.from_numpy(array) for array in tasks.read_structure(graph))
    nodes = torch.from_numpy(np.flatnonzero(data.role.numpy() == role))
    if architecture.aggregation is MEAN:  # it needs no edge_index on the way
        ones, size = torch.ones(len(indices)), (graph.nodes, graph.nodes)
        adjacent = torch.sparse_csr_tensor(indptr, indices, ones, size, check_invariants=False)
    else:
        row = torch.arange(graph.nodes).repeat_interleave(indptr.diff(), output_size=len(indices))
        adjacent = make_adjacency(architecture.aggregation, torch.stack([indices, row]), graph.nodes)
    return StockHeld(data.x, adjacent, nodes, data.y[nodes], make_task(TaskJob(), graph))


def compute_logits(module: Module, state: State, held: StockHeld) -> Tensor:
    """Class scores of all nodes, (V, C)."""
    scores: Tensor = functional_call(module, state, (held.x, held.adjacency))
    return scores


@torch.no_grad()
def evaluate(module: Module, state: State, held: StockHeld) -> float:
    """Accuracy, or the task's metric, of one model on the held nodes."""
    logits = compute_logits(module, state, held)[held.nodes]
    if not held.task.counts_hits:
        return held.task.metric(held.task.predict(logits).numpy(), held.labels.numpy())
    return int((logits.argmax(1) == held.labels).sum()) / len(held.labels)


def mix(states: Sequence[State], raw_LN: Tensor) -> State:
    """Sum over i of softmax(raw)[layer, i] W_i, parameter by parameter, in autograd's sight."""
    alpha, mixed = raw_LN.softmax(1).float(), {}
    for name in states[0]:
        shares = alpha[int(name.split(".")[1])]
        mixed[name] = reduce(add, (share * state[name] for share, state in zip(shares, states, strict=True)))
    return mixed


def ls_step(module: Module, states: Sequence[State], raw_LN: Tensor, held: StockHeld) -> float:
    """One step of SGD on raw alphas (layers, N), on the held nodes; the loss before it."""
    optimiser = torch.optim.SGD([raw_LN], lr=tasks.LEARNING_RATE)
    optimiser.zero_grad(set_to_none=True)
    scores = compute_logits(module, mix(states, raw_LN), held)[held.nodes]
    loss = held.task.loss(scores, held.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def interpolate(soup: State, other: State, a: float) -> State:
    """Between two states: a * soup + (1 - a) * other."""
    return {name: a * soup[name] + (1.0 - a) * other[name] for name in soup}


class StockTraining:
    """An epoch of training: full batches, PyG's ClusterLoader or its NeighborLoader. Raises: RunError as StockTask."""

    def __init__(self, cell: Cell, graph: GraphFile) -> None:
        _check_precision(cell)
        self._cell, self._graph = cell, graph
        self._net, self._task = tasks.make_architecture(cell, graph), make_task(TaskJob(), graph)
        module: Any = make_module(self._net).train()
        module.load_state_dict(self._net.init_state(tasks.SEED))
        module.dropout.p = tasks.DROPOUT
        if self._net.aggregation is None:
            for convolution in module.convs:
                convolution.dropout = tasks.DROPOUT
        self._module: Module = module
        self._adam = torch.optim.Adam(module.parameters(), lr=tasks.TRAIN_RATE)
        map_index(torch.tensor([0]), torch.tensor([0]))  # PyG imports pandas here, which no step should pay for

    def prepare(self) -> None:
        """Read the graph."""
        torch.manual_seed(tasks.SEED)
        if self._cell.batch == "full":
            self._whole = load_whole(self._graph, self._net, Role.TRAIN)
            return
        data = _read_data(self._graph)
        if self._cell.batch == "cluster":
            clusters = _Clusters(data, self._graph)
            self._loader: Any = ClusterLoader(clusters, batch_size=self._cell.union, shuffle=True)
            return
        if not (typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE):
            raise RunError(f"{self._cell.name}: PyG has no sampler here; install torch-sparse, or pyg-lib")
        indptr, indices = (torch.from_numpy(array) for array in tasks.read_structure(self._graph))
        row = torch.arange(self._graph.nodes).repeat_interleave(indptr.diff(), output_size=len(indices))
        data.edge_index = torch.stack([indices, row])
        nodes, fanouts = torch.nonzero(data.role == int(Role.TRAIN)).flatten(), [tasks.FANOUT] * self._cell.layers
        self._loader = NeighborLoader(data, fanouts, input_nodes=nodes, batch_size=tasks.BATCH_SIZE, shuffle=True)

    def once(self) -> float:
        """The mean loss over the training nodes."""
        losses, counts = [], []
        for held in [self._whole] if self._cell.batch == "full" else map(self._hold, self._loader):
            if len(held.nodes):
                losses.append(self._step(held) * len(held.nodes))
                counts.append(len(held.nodes))
        return sum(losses) / sum(counts)

    def _step(self, held: StockHeld) -> float:
        self._adam.zero_grad(set_to_none=True)
        loss = held.task.loss(self._module(held.x, held.adjacency)[held.nodes], held.labels, train=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        return float(loss.detach())

    def _hold(self, batch: Any) -> StockHeld:
        if self._cell.batch == "cluster":
            nodes = (batch.role == int(Role.TRAIN)).nonzero().flatten()
        else:
            nodes = torch.arange(batch.batch_size)
        adjacent = make_adjacency(self._net.aggregation, batch.edge_index, len(batch.y))
        return StockHeld(batch.x, adjacent, nodes, batch.y[nodes], self._task)


def _check_precision(cell: Cell) -> None:
    if cell.precision != "float32":
        raise RunError(f"{cell.name}: the stock path is float32")


class StockTask:
    """All tasks but training. pls_step takes one union after another from ClusterLoader, others hold the whole graph.

    Raises: RunError for a precision that is not float32: ours is compared with what PyG does as it comes.
    """

    def __init__(self, cell: Cell, graph: GraphFile) -> None:
        _check_precision(cell)
        self._cell, self._graph = cell, graph
        self._net, self._task = tasks.make_architecture(cell, graph), make_task(TaskJob(), graph)
        self._module = make_module(self._net)
        self._raw = tasks.draw_start(cell).requires_grad_()
        self._held: StockHeld | None = None
        if cell.task == "pls_step":
            map_index(torch.tensor([0]), torch.tensor([0]))  # PyG imports pandas here, which no step should pay for

    def prepare(self) -> None:
        """Read the graph and make the ingredients."""
        self._states = tasks.make_states(self._cell, self._net)
        if self._cell.task != "pls_step":
            self._held = load_whole(self._graph, self._net)
            return
        clusters = _Clusters(_read_data(self._graph), self._graph)
        loader = ClusterLoader(clusters, batch_sampler=tasks.draw_unions(self._cell, self._graph))
        self._batches: Iterator[Any] = iter(loader)

    def once(self) -> float:
        """Accuracy, or loss of the step."""
        held = self._held or self._next_union()
        if self._cell.task == "evaluation":
            return evaluate(self._module, self._states[0], held)
        if self._cell.task == "gis_step":
            soup, other = self._states[:2]
            ratios = tasks.list_ratios(self._cell.granularity)
            return max(evaluate(self._module, interpolate(soup, other, a), held) for a in ratios)
        return ls_step(self._module, self._states, self._raw, held)

    def _next_union(self) -> StockHeld:
        batch = next(self._batches)
        nodes = (batch.role == int(Role.VALIDATION)).nonzero().flatten()
        adjacent = make_adjacency(self._net.aggregation, batch.edge_index, len(batch.y))
        return StockHeld(batch.x, adjacent, nodes, batch.y[nodes], self._task)


def _read_data(graph: GraphFile) -> Any:
    """Features, labels and roles as PyG holds them."""
    x, y, role = graph.x(0, graph.nodes), graph.y(0, graph.nodes), graph.role(0, graph.nodes)
    return Data(x=torch.from_numpy(x), y=torch.from_numpy(y), role=torch.from_numpy(role), num_nodes=graph.nodes)


class _Clusters(ClusterData):  # type: ignore[misc]
    """ClusterData of the parts that graph.h5 has: PyG's own METIS needs libraries that do not come with PyG."""

    def __init__(self, data: Any, graph: GraphFile) -> None:
        self._file = graph
        data.edge_index = torch.empty(2, 0, dtype=torch.int64)  # in the partition, once it is read
        super().__init__(data, graph.parts, log=False, sparse_format="csc")

    def _metis(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        return edge_index

    def _partition(self, edge_index: Tensor, cluster: Tensor) -> Any:
        """What PyG keeps of a partition on disk; nodes are in the order of parts already."""
        indptr, indices = (torch.from_numpy(array) for array in tasks.read_structure(self._file))
        parts = torch.from_numpy(self._file.ptr)
        return Partition(indptr, indices, parts, torch.arange(self._file.nodes), torch.empty(0), "csc")
