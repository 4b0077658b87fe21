"""A rank's station: what it needs to tell the accuracy of mixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc import engine
from gnnsoup_hpc.alignment import permute
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Planned, Ready
from gnnsoup_hpc.engine.out_of_core import first_aggregation
from gnnsoup_hpc.engine.sharding import NodeShare
from gnnsoup_hpc.evaluation.averages import AverageEvaluator, AverageSpec
from gnnsoup_hpc.evaluation.evaluator import Evaluator, Predictions
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.first_aggregation import FirstAggregationFile
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import Alignment, EvalResult
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime import profiling
from gnnsoup_hpc.runtime.profiling import Meter
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.parameter_matrix import ParameterMatrix
from gnnsoup_hpc.types import Grouping, IntArray, Precision, Role, State


@dataclass(frozen=True)
class Candidate:
    """A mixture whose accuracy is asked for. alpha (G, N); `of` weights, or of predictions (an ensemble)."""

    alpha: Tensor
    by: Grouping = "model"
    of: str = "weights"


class MixtureEvaluator:
    """Reads the shelf and the whole graph when first asked for them; `clear` gives both back."""

    def __init__(
        self,
        run: RunDir,
        architecture: Architecture,
        ids: Sequence[int],
        graph: GraphFile,
        device: torch.device,
        memory: int,
        precision: Precision = "float32",
    ) -> None:
        self.architecture = architecture
        self.graph = graph
        self.device = device
        self._run = run
        self._ids = tuple(ids)
        self._shelf: ParameterMatrix | None = None
        self._shard: tuple[tuple[Role, ...], Planned] | None = None
        self.alignment: Alignment | None = None
        self._memory = memory
        self.precision = precision
        self._evaluator = self._new_evaluator(precision)
        self.meter = Meter(device)

    def warm_up(self) -> None:
        """Load and compile what methods compute with, so that the first to be measured is not blamed for it."""
        profiling.warm_up(self.device)
        engine.warm_up(self.architecture.kind)
        mixing.warm_up()
        loader.warm_up()
        self._evaluator.warm_up()

    @property
    def size(self) -> int:
        """N."""
        return len(self._ids)

    @property
    def streams(self) -> bool:
        """Whether the whole graph does not fit, so that accuracies are told layer by layer."""
        return not self._evaluator.fits

    @property
    def splits(self) -> bool:
        """Whether ranks can make one pass together, each on the rows of its own nodes."""
        return estimate.splits(self.device.type != "cpu")

    def fits_shared(self, ranks: int) -> bool:
        """Whether accuracies can be told by so many ranks together, each with its share of the graph in memory."""
        sizes = Sizes.of(self.graph, self.architecture)
        return self.splits and estimate.inference(sizes, line=True, ranks=ranks) <= self._memory

    @property
    def shelf(self) -> ParameterMatrix:
        """All ingredients, aligned where they are to be."""
        if self._shelf is None:
            with self.meter.phase("ingredients"):
                states = (self._read(index) for index in self._ids)
                self._shelf = ParameterMatrix.of(self.architecture, self._ids, states, self.device)
        return self._shelf

    def _read(self, index: int) -> State:
        state = ingredient_store.read(self._run.ingredient(index)).state
        return state if self.alignment is None else permute(self.architecture, state, self.alignment.of(index))

    def align(self, alignment: Alignment | None) -> None:
        """Permute the ingredients' units so from now on; None: leave them as they are."""
        self.alignment, self._shelf = alignment, None

    @property
    def whole(self) -> Ready:
        """Of the whole graph, what scores of validation nodes are computed on."""
        return self._ready((Role.VALIDATION,))

    def shard(self, split: NodeShare, roles: Sequence[Role] = (Role.VALIDATION,)) -> Planned:
        """Of the whole graph, what scores of this rank's share of some roles' nodes are computed on."""
        if self._shard is None or self._shard[0] != tuple(roles):
            self._shard = None  # before the next one is built, as is the whole graph
            self._evaluator.forget()
            with self.meter.phase("graph"):
                ready = self._evaluator.shard(roles, split)
            assert isinstance(ready, Planned), "only what has a plan is split"
            self._shard = tuple(roles), ready
        return self._shard[1]

    def first_hop(self, say: Callable[[str], None]) -> AbstractContextManager[FirstAggregationFile]:
        """The first hop of the whole graph, open; made first where it is not there."""
        kind = self.architecture.kind
        return first_aggregation.open_first_aggregation(self.graph, kind, self._run.first_hop(kind), say, self._memory)

    def _ready(self, roles: Sequence[Role]) -> Ready:
        self._shard = None
        with self.meter.phase("graph"):
            return self._evaluator.ready(roles)

    def state(self, taste: Candidate) -> State | None:
        """The weights of a mixture; None for an ensemble, which is no one model."""
        return None if taste.of == "predictions" else self.mixture(taste.alpha, taste.by)

    @torch.no_grad()
    def mixture(self, alpha_GN: Tensor, by: Grouping) -> State:
        """The weights that alpha mixes."""
        return mixing.mix(self.shelf, alpha_GN.to(self.device), by)

    def accuracy(self, taste: Candidate) -> float:
        """Exact accuracy of a mixture on the validation nodes."""
        return self.marks(taste, (Role.VALIDATION,))[0].accuracy

    def along(self, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        """Exact validation accuracies of share * start + (1 - share) * end, alphas (1, N) of whole models."""
        tastes = [Candidate(share * start + (1.0 - share) * end) for share in shares]
        if self._evaluator.fits:
            self._ready((Role.VALIDATION,))  # read here, where its time is booked
        between = ((share, self.mixture(taste.alpha, taste.by)) for share, taste in zip(shares, tastes, strict=True))
        ends = self.mixture(start, "model"), self.mixture(end, "model")
        return self._evaluator.line_accuracies(ends, between, Role.VALIDATION)

    def marks(self, taste: Candidate, roles: Sequence[Role]) -> list[Predictions]:
        """Exact accuracies of a mixture on the nodes of some roles, node by node; a kitchen has only `accuracy`."""
        if self._evaluator.fits:
            self._ready(roles)  # read here, where its time is booked
        state = self.state(taste)
        if state is not None:
            return self._evaluator.marks([state], roles)
        chosen = taste.alpha[0].nonzero().flatten().tolist()
        return self._evaluator.marks([self.shelf.state(self.shelf.weights[i]) for i in chosen], roles)

    def marked(self, classes: IntArray, roles: Sequence[Role]) -> list[Predictions]:
        """What predicted classes of all nodes of some roles are worth on each role's."""
        return self._evaluator.marked(classes, roles)

    def weighed(self, loads: Sequence[AverageSpec]) -> list[EvalResult]:
        """Accuracy and loss on validation nodes of means of ingredients, read from their files and not the shelf."""
        scales = AverageEvaluator(self._run, self.architecture, self.device, self._evaluator)
        return [scales.weigh(load) for load in loads]

    def _new_evaluator(self, precision: Precision) -> Evaluator:
        return Evaluator(self.graph, self.architecture, self._memory, self._run.root, self.device, precision)

    def clear(self, exact: bool = False) -> None:
        """Give the graph and the ingredients back, and begin to measure afresh; `exact`: in float32 from now on."""
        self._shelf = self._shard = None
        self._evaluator = self._new_evaluator("float32" if exact else self.precision)
        self.meter = Meter(self.device)
