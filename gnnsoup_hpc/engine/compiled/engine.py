"""The compiled engine: GCN, GraphSAGE and GAT on a CPU, forward and backward over a plan, in bounded memory.

Its oracle is the torch engine on the whole subgraph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.base import Engine, Plan, Vjp
from gnnsoup_hpc.engine.compiled.gat import GatForwardBackward
from gnnsoup_hpc.engine.compiled.passes import ForwardBackward
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan, choose_early
from gnnsoup_hpc.engine.frontier import Division, find_frontier
from gnnsoup_hpc.engine.memory import FLOAT, Extent, Memory, Terms, estimate_frontiers, hold_features
from gnnsoup_hpc.engine.own_backward import check_dropout, check_model, knows, track
from gnnsoup_hpc.engine.threads import CHUNKS
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import CountedDropout, Dropout, Model
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL
from gnnsoup_hpc.types import Dense, Mode, Precision, State
from gnnsoup_hpc.utils.out_of_core import BufferPool, index_type

PLAN_NODE = 28  # bytes a node of a plan: its order, its place there, its scale, where its entries start, both ways
WEIGHTED_NODE = 20  # and while weights of edges are normalised: where entries start, its id, its degree's root
_ENTRY_WORK = 8  # of an entry's channel, forward and backward, in products that take as long
_HEAD_WORK = 24  # of an entry's weight, in channels that take as long to sum up


class CompiledEngine(Engine):
    """Own backward passes, hidden states in room that is used again; ranks may share a batch."""

    name = "compiled"
    divides = True
    keeps_sparse = True

    def supports(self, model: Model, device: torch.device) -> bool:
        """GCN, GraphSAGE and GAT on a CPU."""
        return knows(model) and device.type == "cpu"

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
    ) -> CompiledPlan:
        """As `Engine.plan`."""
        net = check_model(model, "compiled")
        work = _estimate_attention_work(net) if net.kind == "gat" else _estimate_row_work(net)
        features = batch.graph.features
        if net.kind != "gat" and not isinstance(features, Tensor) and batch.graph.hop is None:
            work = [2 * features.nnz // max(1, features.shape[0]), 1, *work[1:]]
        found = find_frontier(
            batch,
            net.aggregation,
            net.layers,
            loops=True,
            division=division,
            row_work=work,
            name_nodes=train,
            keep_sparse=True,
        )
        comm = division.comm if division else SERIAL
        return CompiledPlan(**vars(found), net=net, workspace=workspace or BufferPool(), precision=precision, comm=comm)

    def logits(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "evaluate", dropout: Dropout | None = None
    ) -> Tensor:
        """As `Engine.logits`.

        Raises: TypeError for dropout whose masks are not counted, ValueError for dropout on a plan without `train`.
        """
        plan = _check_plan(plan)
        names = tuple(plan.net.shapes())
        drop = _check_dropout(plan, dropout) if mode == "train" else None
        if torch.is_grad_enabled() and any(state[name].requires_grad for name in names):
            return track(partial(_compute_vjp, plan, dropout=drop), names, state)
        return torch.from_numpy(_begin(plan, state, False, drop).forward())

    def vjp(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "fit", dropout: Dropout | None = None
    ) -> tuple[Tensor, Vjp]:
        """As `Engine.vjp`. Raises: as `logits`."""
        plan = _check_plan(plan)
        return _compute_vjp(plan, state, _check_dropout(plan, dropout) if mode == "train" else None)

    def interpolate(
        self, plan: Plan, ends: tuple[State, State], between: Iterable[tuple[float, State]]
    ) -> Iterator[Tensor]:
        """As `Engine.interpolate`: what the first weights make of the first aggregation is linear in the share."""
        plan = _check_plan(plan)
        if not plan.sums_first:  # GAT's first layer is not linear in the weights; products of sparse features are cheap
            yield from super().interpolate(plan, ends, between)
            return
        start, end = (ForwardBackward(plan, _to_arrays(plan.net, state), False).multiply_first() for state in ends)
        for share, state in between:
            first = share, start, end
            yield torch.from_numpy(ForwardBackward(plan, _to_arrays(plan.net, state), False, first).forward())

    def memory(
        self, model: Model, extent: Extent, *, mode: Mode, line: bool = False, precision: Precision = "float32"
    ) -> Memory:
        """As `Engine.memory`."""
        net, keep = check_model(model, "compiled"), mode != "evaluate"
        rows = estimate_frontiers(extent, net.layers - 1)[::-1]
        ends = 2 * FLOAT * net.widths(0)[1] * extent.nodes if line and net.kind != "gat" else 0
        states = _estimate_states(net, extent, rows, keep, mode == "train")
        return Memory(_estimate_plan(net, extent, rows, keep), {**states, "line": ends} if ends else states)

    def make_dropout(self, rate: float, device: torch.device, seed: int) -> CountedDropout:
        """As `Engine.make_dropout`."""
        return CountedDropout(rate, seed)

    def warm_up(self, model: Model) -> None:
        """As `Engine.warm_up`."""
        kind = check_model(model, "compiled").kind
        weight = torch.ones(4) if model.weighted else None
        ids = torch.arange(5, dtype=torch.int32)
        structure = Adjacency(ids, ids[:4].roll(1), weight=weight)
        batch = Batch(Subgraph(torch.ones(4, 4), structure), torch.tensor([0]), torch.tensor([0]))
        for norm in ("none", "layer"):
            net = Architecture(kind, layers=3, features=4, hidden=4, classes=2, norm=norm, weighted=model.weighted)
            state = {name: tensor.requires_grad_() for name, tensor in net.init_state(0).items()}
            plan, dropout = self.plan(net, batch, train=True), CountedDropout(0.5, 0)
            self.logits(plan, state, mode="train", dropout=dropout).sum().backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():  # whose kernels are given other arrays
                self.logits(plan, {name: tensor.detach() for name, tensor in state.items()})


def _compute_vjp(
    plan: CompiledPlan, state: Mapping[str, Tensor], dropout: CountedDropout | None = None
) -> tuple[Tensor, Vjp]:
    run = _begin(plan, state, True, dropout)

    def vjp(grad: Tensor) -> dict[str, Tensor]:
        return {name: torch.from_numpy(found) for name, found in run.backward(grad.numpy()).items()}

    return torch.from_numpy(run.forward()), vjp


def _check_plan(plan: Plan) -> CompiledPlan:
    if not isinstance(plan, CompiledPlan):
        raise TypeError(f"a plan of another engine: {type(plan).__name__}")
    return plan


def _check_dropout(plan: CompiledPlan, dropout: Dropout | None) -> CountedDropout | None:
    counted = check_dropout(dropout, "compiled")
    if counted is not None and plan.rows[0] and not len(plan.nodes):
        raise ValueError("this plan is not for training")
    return counted


def _begin(
    plan: CompiledPlan, state: Mapping[str, Tensor], keep: bool, dropout: CountedDropout | None
) -> ForwardBackward | GatForwardBackward:
    kind = GatForwardBackward if plan.net.kind == "gat" else ForwardBackward
    return kind(plan, _to_arrays(plan.net, state), keep, dropout=dropout)


def _to_arrays(net: Architecture, state: Mapping[str, Tensor]) -> dict[str, Dense]:
    return {name: state[name].detach().numpy() for name in net.shapes()}


def _estimate_row_work(net: Architecture) -> list[int]:
    """What a row's dense products cost in each layer, forward and backward, in entries that are summed up."""
    return [
        (3 if layer else 2) * (2 if net.kind == "sage" else 1) * width * out // (_ENTRY_WORK * net.hidden)
        for layer, (width, out) in enumerate(net.widths(layer) for layer in range(net.layers))
    ]


def _estimate_attention_work(net: Architecture) -> list[int]:
    """Of GAT: what a row costs that the first layer attends to, then each layer's, with what the next does to it."""
    products, entry = [0] * (net.layers + 1), 0
    for layer in range(net.layers):
        out, width = net.shapes()[f"convs.{layer}.lin.weight"]
        early = out < width  # values are summed up, else states for each head
        products[layer if early else layer + 1] += (3 if layer else 2) * out * width
        products[layer] += 4 * net.heads * width  # scores
        entry += (out if early else net.heads * width) + _HEAD_WORK * net.heads
    return [max(1, net.layers * work // (_ENTRY_WORK * entry)) for work in products]


def _estimate_plan(net: Architecture, extent: Extent, rows: list[int], keep: bool) -> Terms:
    """The first aggregation (of GAT the features), and the structure, with its transpose for a backward pass.

    GCN and GraphSAGE need only the entries of rows after the first layer; GAT's transpose has the places of its
    entries, and each layer those that cross to other ranks. Where edges have weights, each entry has a value, and there
    is a copy of the whole structure while these are made.
    """
    width = net.features * (2 if net.kind == "sage" else 1)
    ids = np.dtype(index_type(extent.read)).itemsize
    whole = extent.entries + (0 if net.kind == "sage" else extent.nodes)  # self-loops among them
    if net.kind == "gat":
        entries = whole * (3 if keep else 1) + net.layers * extent.crossing * keep
    else:
        later = rows[1] / max(1, extent.nodes) if net.layers > 1 else 0
        later = later if extent.dense else rows[0] / max(1, extent.nodes)
        entries = (2 if keep else 1) * round(later * whole)
    structure = ids * entries + PLAN_NODE * extent.nodes
    if net.weighted:
        places = entries // 2 if keep else 0  # by which the transpose's values are found
        structure += FLOAT * entries + ids * places + (ids + FLOAT) * whole + WEIGHTED_NODE * extent.nodes
    first = FLOAT * width * rows[0] if extent.dense else hold_features(width, extent)
    return {"first hop": first, "structure": structure}


def _estimate_states(net: Architecture, extent: Extent, rows: list[int], keep: bool, drops: bool) -> Terms:
    """Hidden states: all that the backward pass needs, and what two layers in turn sum up."""
    made = [FLOAT * net.widths(layer)[1] * rows[layer] for layer in range(net.layers)]
    scores = made[-1] * (4 if keep else 2)
    widest = max(net.widths(layer)[0] * net.widths(layer)[1] for layer in range(net.layers))
    chunks = CHUNKS * FLOAT * widest * (2 if net.kind == "sage" else 1)
    if net.kind == "gat":
        shares = [rows[layer] / max(1, extent.nodes) for layer in range(net.layers)]
        weights = [FLOAT * net.heads * round(share * (extent.entries + extent.nodes)) for share in shares]
        scores += 4 * FLOAT * net.heads * extent.nodes + (sum(weights) * (1 + drops) + max(weights) if keep else 0)
        scores += FLOAT * net.heads * extent.crossing  # as they are sent, or scores of halo nodes
        scores += 0 if extent.dense else FLOAT * net.hidden * extent.nodes  # products of features
        if not keep:
            return {"states": max(a + b for a, b in zip(made, [*made[1:], 0], strict=True)) + scores}
        normed = sum(made[:-1]) if net.norm == "layer" else 0
        return {"states": sum(made) + normed + scores, "gradients": chunks}
    degree = extent.entries / max(1, extent.nodes)
    early = choose_early(net, [(count, round(degree * count)) for count in rows], keep)
    if not extent.dense:
        early[0], rows = True, [*rows, extent.nodes]  # whose last are read as those before the first
    narrow = [net.widths(layer)[1 if early[layer] else 0] for layer in range(net.layers)]
    # Of each layer after the first: what it sums up, of its columns; products of own states.
    summed = [FLOAT * narrow[0] * rows[-1] * early[0]]
    summed += [FLOAT * narrow[layer] * rows[layer - 1] for layer in range(1, net.layers)]
    own = [FLOAT * narrow[layer] * rows[layer] * (early[layer] and net.kind == "sage") for layer in range(net.layers)]
    if not keep:
        each = (summed[layer] + own[layer] for layer in range(net.layers))
        return {"states": max(a + b for a, b in pairwise([*each, made[-1]])) + scores}
    kept = sum(made[:-1])
    kept += sum(FLOAT * narrow[layer] * rows[layer] for layer in range(1, net.layers) if not early[layer])
    if net.norm != "layer":  # states that are summed up are the rows that are kept
        summed = [size * early[layer] for layer, size in enumerate(summed)]
    return {"states": kept + max(a + b for a, b in pairwise([*summed, own[-1]])) + scores, "gradients": chunks}
