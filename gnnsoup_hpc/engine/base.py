"""What an engine is: it computes a model on a batch, for training, evaluation, GIS, LS and PLS alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnsoup_hpc.engine.compiled.threads import Span, Workspace
from gnnsoup_hpc.engine.frontier import Division
from gnnsoup_hpc.engine.memory import Extent, Memory
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.base import Dropout, Model
from gnnsoup_hpc.types import Mode, Precision, State

Pullback = Callable[[Tensor], Mapping[str, Tensor]]


class Plan(Protocol):
    """A batch made ready for any number of states of one model."""

    @property
    def targets(self) -> Tensor:
        """Of all seed nodes, (n, ...), on the device that is computed on."""

    @property
    def size(self) -> int:
        """Nodes of the subgraph."""

    @property
    def local(self) -> Span:
        """Which of all seed nodes are this rank's, as first and after the last."""


class Engine(Protocol):
    """A way to compute models. Recipes of results name it where it is not the first version's."""

    name: str
    divides: bool  # whether ranks can compute on one batch together

    def supports(self, model: Model, device: torch.device) -> bool:
        """Whether it computes that model there."""

    def plan(
        self,
        model: Model,
        batch: Batch,
        *,
        train: bool = False,
        device: torch.device | None = None,
        precision: Precision = "float32",
        division: Division | None = None,
        workspace: Workspace | None = None,
    ) -> Plan:
        """A batch made ready, once for any number of states. Plans that are used in turn may share a workspace.

        train: for training, with dropout, where every row of every layer is computed.
        """

    def logits(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "evaluate", dropout: Dropout | None = None
    ) -> Tensor:
        """Outputs of this rank's seed nodes, (n, C), differentiable in the state's parameters.

        mode: "train" with dropout; "fit" and "evaluate" without. Rank-collective where the plan is divided.
        """

    def pull_back(self, plan: Plan, state: Mapping[str, Tensor]) -> tuple[Tensor, Pullback]:
        """The same without dropout, and what takes their gradient (n, C) to those of all parameters, in float64.

        Of a divided plan these are what this rank's rows add to the gradients; both are rank-collective.
        """

    def interpolate(
        self, plan: Plan, ends: tuple[State, State], between: Iterable[tuple[float, State]]
    ) -> Iterator[Tensor]:
        """Logits of states share * ends[0] + (1 - share) * ends[1], each given with its share.

        What is linear in the share is computed once for all of them.
        """

    def memory(self, model: Model, extent: Extent, *, mode: Mode, line: bool = False) -> Memory:
        """Host bytes that a plan and a state on it take. line: while it interpolates. Nothing where a GPU computes."""

    def warm_up(self, model: Model) -> None:
        """Compile, or load, all that such a model needs, so that the first to be measured is not blamed for it."""


def differentiate(engine: Engine, plan: Plan, state: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Logits that autograd takes back through an engine's own backward pass."""
    found: Tensor = _PulledBack.apply(engine, plan, names, *(state[name] for name in names))  # type: ignore[no-untyped-call]
    return found


class _PulledBack(torch.autograd.Function):
    """Everything between parameters and logits as one step of autograd, by an engine's own backward pass."""

    @staticmethod
    def forward(ctx: Any, engine: Engine, plan: Plan, names: tuple[str, ...], *parameters: Tensor) -> Tensor:
        state = {name: tensor.detach() for name, tensor in zip(names, parameters, strict=True)}
        logits, ctx.pull_back = engine.pull_back(plan, state)
        ctx.names = names
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pull_back: Pullback = ctx.pull_back
        del ctx.pull_back  # its buffers are overwritten: there is no second backward
        grads = pull_back(grad.contiguous())
        return None, None, None, *(grads[name].to(grad) for name in ctx.names)
