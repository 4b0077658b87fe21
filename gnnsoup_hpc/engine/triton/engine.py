"""The engine for GPUs: GCN, GraphSAGE and GAT, forward and backward over a plan that is made on the device.

Its oracle is the torch engine on the whole subgraph. Where Triton interprets (TRITON_INTERPRET=1), it runs on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gnnsoup_hpc.engine.base import Engine, Plan, Vjp
from gnnsoup_hpc.engine.frontier import Division
from gnnsoup_hpc.engine.memory import Extent, Memory
from gnnsoup_hpc.engine.own_backward import check_dropout, check_model, knows, track
from gnnsoup_hpc.engine.triton.memory import estimate
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import CountedDropout, Dropout, Model
from gnnsoup_hpc.types import Mode, Precision, State
from gnnsoup_hpc.utils.out_of_core import BufferPool

if TYPE_CHECKING:
    from gnnsoup_hpc.engine.triton.plan import TritonPlan
    from gnnsoup_hpc.engine.triton.unions import HeldGraph


class TritonEngine(Engine):
    """Kernels of our own; Triton is loaded when the first plan is made."""

    name = "triton"
    divides = False
    holds = True

    def supports(self, model: Model, device: torch.device) -> bool:
        """GCN, GraphSAGE and GAT on a GPU, where Triton is installed."""
        known = knows(model)
        return known and device.type == "cuda" and find_spec("triton") is not None

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
    ) -> TritonPlan:
        """As `Engine.plan`. Raises: ValueError for a division among ranks."""
        from gnnsoup_hpc.engine.triton.plan import make_plan

        if division is not None:
            raise ValueError("the triton engine does not divide a batch among ranks")
        return make_plan(check_model(model, "triton"), batch, device or batch.graph.device, precision)

    def logits(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "evaluate", dropout: Dropout | None = None
    ) -> Tensor:
        """As `Engine.logits`. Raises: TypeError for dropout whose masks are not counted."""
        from gnnsoup_hpc.engine.triton.capture import compute_logits, compute_vjp

        plan = _check_plan(plan)
        names = tuple(plan.net.shapes())
        drop = check_dropout(dropout, self.name) if mode == "train" else None
        if torch.is_grad_enabled() and any(state[name].requires_grad for name in names):
            return track(partial(compute_vjp, plan, dropout=drop), names, state)
        return compute_logits(plan, state, drop)

    def vjp(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "fit", dropout: Dropout | None = None
    ) -> tuple[Tensor, Vjp]:
        """As `Engine.vjp`. Raises: as `logits`."""
        from gnnsoup_hpc.engine.triton.capture import compute_vjp

        drop = check_dropout(dropout, self.name) if mode == "train" else None
        return compute_vjp(_check_plan(plan), state, dropout=drop)

    def interpolate(
        self, plan: Plan, ends: tuple[State, State], between: Iterable[tuple[float, State]]
    ) -> Iterator[Tensor]:
        """As `Engine.interpolate`: what the first weights make of the first aggregation is linear in the share."""
        from gnnsoup_hpc.engine.triton.passes import TritonForwardBackward

        plan = _check_plan(plan)
        if plan.net.kind == "gat":  # whose first layer is not linear in the weights
            yield from super().interpolate(plan, ends, between)
            return
        with torch.no_grad():
            start, end = (TritonForwardBackward(plan, state, False).multiply_first() for state in ends)
        for share, state in between:
            with torch.no_grad():
                yield TritonForwardBackward(plan, state, False, first=(share, start, end)).forward()

    def memory(
        self, model: Model, extent: Extent, *, mode: Mode, line: bool = False, precision: Precision = "float32"
    ) -> Memory:
        """As `Engine.memory`: bytes of the GPU."""
        return estimate(check_model(model, "triton"), extent, mode, precision, line)

    def expect_gradients(self, plan: Plan) -> None:
        """As `Engine.expect_gradients`."""
        made = _check_plan(plan)
        made.structures, made.transposes, made.host_targets  # noqa: B018 - are made when first asked for

    def hold(self, whole: Batch, device: torch.device, resident: bool) -> HeldGraph:
        """As `Engine.hold`."""
        from gnnsoup_hpc.engine.triton.unions import HeldGraph

        return HeldGraph.of(whole, device, resident)

    def make_dropout(self, rate: float, device: torch.device, seed: int) -> CountedDropout:
        """As `Engine.make_dropout`."""
        return CountedDropout(rate, seed)

    def warm_up(self, model: Model) -> None:
        """As `Engine.warm_up`: what a graph of a few nodes needs, in every precision; on the GPU in use, if any."""
        from gnnsoup_hpc.engine.triton.plan import KINDS

        net, device = check_model(model, "triton"), torch.device("cuda" if torch.cuda.is_available() else "cpu")
        weight = torch.ones(4) if net.weighted else None
        ids = torch.arange(5, dtype=torch.int32)
        structure = Adjacency(ids, ids[:4].roll(1), weight=weight)
        batch = Batch(Subgraph(torch.ones(4, net.features), structure), torch.tensor([0]), torch.tensor([0]))
        modes: tuple[Mode, ...] = ("train", "evaluate")
        for precision, mode in product(KINDS, modes):
            state = {name: tensor.to(device).requires_grad_() for name, tensor in net.init_state(0).items()}
            plan = self.plan(net, batch, device=device, precision=precision)
            self.logits(plan, state, mode=mode, dropout=CountedDropout(0.5, 0)).sum().backward()  # type: ignore[no-untyped-call]


def _check_plan(plan: Plan) -> TritonPlan:
    from gnnsoup_hpc.engine.triton.plan import TritonPlan

    if not isinstance(plan, TritonPlan):
        raise TypeError(f"a plan of another engine: {type(plan).__name__}")
    return plan
