"""What an engine is: it computes a model on a batch, for training, evaluation, GIS, LS and PLS alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gnnsoup_hpc.engine.frontier import Division
from gnnsoup_hpc.engine.memory import Extent, Memory
from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.base import Dropout, Model
from gnnsoup_hpc.types import IntArray, Mode, Precision, State
from gnnsoup_hpc.utils.out_of_core import BufferPool

Vjp = Callable[[Tensor], Mapping[str, Tensor]]


class Plan(Protocol):
    """A batch made ready for any number of states of one model."""

    @property
    def targets(self) -> Tensor:
        """Of all seed nodes, (n, ...), on the device that is computed on."""

    @property
    def host_targets(self) -> IntArray:
        """The same on the host."""

    @property
    def size(self) -> int:
        """Nodes of the subgraph."""

    @property
    def local(self) -> Span:
        """Which of all seed nodes are this rank's, as first and after the last."""


class UnionSource(Protocol):
    """A whole graph, and its seed nodes."""

    def cut(self, runs: Sequence[Span]) -> Batch:
        """The subgraph induced by ranges of nodes, in rising order, with its seed nodes, as they would be read."""


class Engine(ABC):
    """A way to compute models. Fingerprints of soups name it where it is not the first version's."""

    name: str
    divides: bool  # whether ranks can compute on one batch together
    holds = False  # whether it cuts unions out of a graph
    keeps_sparse = False  # whether it multiplies sparse features as such

    @abstractmethod
    def supports(self, model: Model, device: torch.device) -> bool:
        """Whether it computes that model there."""

    @abstractmethod
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
    ) -> Plan:
        """A batch made ready, once for any number of states. Plans that are used in turn may share a workspace.

        train: for training, where `logits` may be asked for dropout; the torch engine then computes all rows.
        """

    @abstractmethod
    def logits(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "evaluate", dropout: Dropout | None = None
    ) -> Tensor:
        """Outputs of this rank's seed nodes, (n, C), differentiable in the state's parameters.

        mode: "train" with dropout; "fit" and "evaluate" without, "fit" where gradients will follow. Rank-collective
        where the plan is divided.
        """

    @abstractmethod
    def vjp(
        self, plan: Plan, state: Mapping[str, Tensor], *, mode: Mode = "fit", dropout: Dropout | None = None
    ) -> tuple[Tensor, Vjp]:
        """Outputs of this rank's seed nodes, (n, C), and the function that pulls gradients back.

        mode: "fit" without dropout, or "train" with it, as for `logits`.
        That function takes the outputs' gradient (n, C) to those of all parameters, in float64: a vector-Jacobian
        product. Of a divided plan these are what this rank's rows add to the gradients; both are rank-collective.
        """

    @torch.no_grad()
    def interpolate(
        self, plan: Plan, ends: tuple[State, State], between: Iterable[tuple[float, State]]
    ) -> Iterator[Tensor]:
        """Logits of states share * ends[0] + (1 - share) * ends[1], each given with its share.

        What is linear in the share is computed once for all of them, where an engine has a way of its own.
        """
        for _, state in between:
            yield self.logits(plan, state)

    @abstractmethod
    def memory(
        self, model: Model, extent: Extent, *, mode: Mode, line: bool = False, precision: Precision = "float32"
    ) -> Memory:
        """Bytes that a plan and a state on it take, where they are computed. line: while it interpolates."""

    @abstractmethod
    def make_dropout(self, rate: float, device: torch.device, seed: int) -> Dropout:
        """Dropout as its `logits` takes it; its masks are functions of the seed, on one kind of device."""

    def expect_gradients(self, plan: Plan) -> None:  # noqa: B027 - an engine may have nothing to prepare
        """Make now what gradients on a plan will need, where an engine would make it when the first is asked for."""

    def hold(self, whole: Batch, device: torch.device, resident: bool) -> UnionSource:
        """A graph in host memory, kept where unions of its parts are cut out fast, by an engine that `holds` graphs.

        resident: on the device; else in host memory, from which the device copies by itself.
        """
        raise TypeError(f"the {self.name} engine cuts no unions")

    def warm_up(self, model: Model) -> None:  # noqa: B027 - an engine may have nothing to compile
        """Compile, or load, all that such a model needs, so that the first to be measured is not blamed for it."""
