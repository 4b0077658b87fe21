"""The general engine: any model, on a CPU or a GPU, through torch and its autograd. Others are tested against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.base import Engine, Plan, Vjp
from gnnsoup_hpc.engine.frontier import Division, Frontier, find_frontier
from gnnsoup_hpc.engine.measure import measure_slopes
from gnnsoup_hpc.engine.memory import FLOAT, Extent, Memory
from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import DrawnDropout, Dropout, LayeredModel, Model
from gnnsoup_hpc.types import IntArray, Mode, Precision
from gnnsoup_hpc.utils.out_of_core import BufferPool

STRUCTURE_ENTRY = 28  # bytes: CSR, its transpose, both with values, and the permutation between them
STRUCTURE_NODE = 28
EDGE = 16  # bytes of an edge's ends, of models that take them
WEIGHT = 12  # bytes of an entry's weight, with and without self-loops, and while these are put in order
COPIES: dict[Mode, int] = {"train": 8, "fit": 8, "evaluate": 3}  # of a layer's states, gradients included


@dataclass(frozen=True)
class TorchPlan:
    """The subgraphs that layers are computed on, one each, or one for a whole model; seeds (n,) in the last rows."""

    model: Model
    graphs: tuple[Subgraph, ...]
    seeds: Tensor
    targets: Tensor
    size: int
    precision: Precision = "float32"

    @cached_property
    def host_targets(self) -> IntArray:
        """The targets on the host."""
        found: IntArray = self.targets.cpu().numpy()
        return found

    @property
    def local(self) -> Span:
        """All of the batch's seed nodes: ranks do not divide it."""
        return 0, len(self.seeds)


class TorchEngine(Engine):
    """The reference. A model whose layers can be computed one by one is computed on the rows that its seeds need."""

    name = "torch"
    divides = False

    def supports(self, model: Model, device: torch.device) -> bool:
        """Any model, anywhere."""
        return True

    def plan(
        self,
        model: Model,
        batch: Batch,
        *,
        train: bool = False,
        device: torch.device | None = None,
        precision: Precision = "float32",
        division: Division | None = None,
        workspace: BufferPool | None = None,
    ) -> TorchPlan:
        """As `Engine.plan`. Raises: ValueError for a division among ranks."""
        if division is not None:
            raise ValueError("the torch engine does not divide a batch among ranks")
        device = device or batch.graph.device
        on_host = batch.graph.device.type == "cpu"
        targets, size = batch.targets.to(device), batch.size
        weighted = batch.graph.adjacency.weight is not None  # which layers normalise, by degrees of whole rows
        if train or weighted or not on_host or not isinstance(model, LayeredModel):
            return TorchPlan(model, (batch.graph.to(device),), batch.seeds.to(device), targets, size, precision)
        found = find_frontier(batch, model.aggregation, model.layers)
        graphs = tuple(_make_subgraph(model, found, layer).to(device) for layer in range(model.layers))
        return TorchPlan(model, graphs, torch.arange(found.rows[-1], device=device), targets, size, precision)

    def logits(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "evaluate", dropout: Dropout | None = None
    ) -> Tensor:
        """As `Engine.logits`."""
        plan = _check_plan(plan)
        x = plan.graphs[0].x
        dropout = dropout if mode == "train" else None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
            if isinstance(plan.model, LayeredModel) and len(plan.graphs) == plan.model.layers > 1:
                kind = x.dtype
                for layer, graph in enumerate(plan.graphs):
                    x = plan.model.layer(state, layer, x, graph, dropout)
                return x[plan.seeds].to(kind)
            return plan.model.forward(state, plan.graphs[0], dropout, mode)[plan.seeds].to(x.dtype)

    def vjp(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "fit", dropout: Dropout | None = None
    ) -> tuple[Tensor, Vjp]:
        """As `Engine.vjp`."""
        trained = _check_plan(plan).model.parameters
        leaves = {name: state[name].detach().requires_grad_() for name in state if name in trained}
        with torch.enable_grad():
            logits = self.logits(plan, dict(state) | leaves, mode=mode, dropout=dropout)

        def pull(grad: Tensor) -> dict[str, Tensor]:
            with torch.enable_grad():  # of a number, for to pull a tensor back torch imports SymPy
                weighed = (logits * grad).sum()
            found = torch.autograd.grad(weighed, list(leaves.values()), materialize_grads=True)
            zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items() if name not in leaves}
            grads = zeros | dict(zip(leaves, found, strict=True))
            return {name: grads[name].double() for name in state}

        return logits.detach(), pull

    def make_dropout(self, rate: float, device: torch.device, seed: int) -> DrawnDropout:
        """As `Engine.make_dropout`."""
        return DrawnDropout(rate, torch.Generator(device).manual_seed(seed))

    @torch.no_grad()
    def hidden_states(self, plan: Plan, state: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """States of the seed nodes after each hidden layer, (n, H), of a plan with `train` of a layered model."""
        plan = _check_plan(plan)
        if not isinstance(plan.model, LayeredModel):
            raise ValueError(f"a model of kind {plan.model.kind!r} has no hidden states to look at")
        (graph,), x = plan.graphs, plan.graphs[0].x
        for layer in range(plan.model.layers - 1):
            x = plan.model.layer(state, layer, x, graph)
            yield x[plan.seeds]

    def memory(
        self, model: Model, extent: Extent, *, mode: Mode, line: bool = False, precision: Precision = "float32"
    ) -> Memory:
        """As `Engine.memory`, on a CPU: as if all rows of all layers were computed. Of other models it is measured."""
        weights = WEIGHT * extent.entries * model.weighted
        attr = FLOAT * model.edge_features * extent.read  # what is left of it lies in the memory that it was read to
        if not isinstance(model, LayeredModel):
            edges = (STRUCTURE_ENTRY + EDGE) * extent.entries + STRUCTURE_NODE * extent.nodes + weights + attr
            plan = {"features": FLOAT * model.features * extent.nodes, "structure": edges}
            return Memory(plan, measure_slopes(model, mode).extrapolate(extent))
        features = FLOAT * model.features * extent.nodes * (2 if model.aggregation else 1)
        structure = STRUCTURE_ENTRY * extent.entries + STRUCTURE_NODE * extent.nodes + weights
        widths = sum(model.widths(layer)[1] for layer in range(model.layers))
        states = FLOAT * extent.nodes * widths * COPIES[mode]
        entries = FLOAT * model.entry_values * extent.entries * model.layers
        return Memory({"features": features, "structure": structure}, {"states": states, "entries": entries})


def _check_plan(plan: Plan) -> TorchPlan:
    if not isinstance(plan, TorchPlan):
        raise TypeError(f"a plan of another engine: {type(plan).__name__}")
    return plan


def _make_subgraph(model: LayeredModel, found: Frontier, layer: int) -> Subgraph:
    """What a layer is computed on: its rows, and as columns those of the layer before."""
    rows, columns = found.rows[layer], found.columns(layer)
    aggregation = model.aggregation
    if layer == 0 and aggregation is not None:  # the sums are there, and of the structure nothing is needed
        none = torch.zeros(rows + 1, dtype=torch.int32)
        own = found.first[:, found.first.shape[1] // 2 :] if aggregation.beside_own else found.first[:, :0]
        hop = found.first[:, : found.first.shape[1] // 2] if aggregation.beside_own else found.first
        return Subgraph(own, Adjacency(none, none[:0], rows), hop)
    start, stop = found.start[: rows + 1], int(found.start[rows])
    degrees = None if aggregation is None else torch.from_numpy(np.square(1.0 / found.scale[:columns]))
    indptr, indices = torch.from_numpy(start), torch.from_numpy(found.indices[:stop])
    adjacency = Adjacency(indptr, indices, columns, looped_degrees=degrees, dtype=found.first.dtype)
    return Subgraph(found.first if layer == 0 else found.first[:0], adjacency)
