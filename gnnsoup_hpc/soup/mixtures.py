"""Mixtures of a run's ingredients: their weights, and their exact metrics, by all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from gnnsoup_hpc.alignment.symmetry import permute
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator, Members, Predictions
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import Alignment
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime import profiling
from gnnsoup_hpc.runtime.profiling import Meter
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.mixing import ParameterMatrix
from gnnsoup_hpc.types import Grouping, Role, State, Statistics


@dataclass(frozen=True)
class Candidate:
    """A mixture whose metric is asked for. alpha (G, N); `of` weights, or of predictions (an ensemble).

    state: the model itself, where it was distilled.
    """

    alpha: Tensor
    by: Grouping = "model"
    of: str = "weights"
    state: State | None = None


class Mixtures:
    """Reads the ingredients and the whole graph when first asked for them; `clear` gives both back.

    device: where weights and subgraphs are; comm: the ranks that soup together.
    """

    def __init__(self, run: RunDir, model: Model, ids: Sequence[int], graph: GraphFile, settings: EvalSettings) -> None:
        self.run, self.model, self.graph = run, model, graph
        self.settings, self.device, self.comm = settings, settings.device, settings.comm
        self.alignment: Alignment | None = None
        self._of_candidates: Statistics = "own" if settings.recompute == "each" else "mixed"
        self.ids = tuple(ids)
        self._matrix: ParameterMatrix | None = None
        self.clear()

    def clear(self, exact: bool = False) -> None:
        """Give the graph and the ingredients back, and begin to measure afresh; `exact`: in float32 from now on."""
        self._matrix = None
        self.meter = Meter(self.device)
        precision = "float32" if exact else self.settings.precision
        settings = replace(self.settings, precision=precision, timed=self.meter.phase)
        self.evaluator = Evaluator(self.graph, self.model, settings)

    def warm_up(self) -> None:
        """Load and compile what methods compute with, so that the first to be measured is not blamed for it."""
        profiling.warm_up(self.device)
        self.evaluator.engine.warm_up(self.model)
        mixing.warm_up()
        loader.warm_up()
        self.evaluator.warm_up()

    @property
    def matrix(self) -> ParameterMatrix:
        """All ingredients, aligned where they are to be."""
        if self._matrix is None:
            with self.meter.phase("ingredients"):
                states = (self._read(index) for index in self.ids)
                self._matrix = ParameterMatrix.of(self.model, self.ids, states, self.device)
        return self._matrix

    def ingredient(self, index: int) -> State:
        """The state of an ingredient by its id, aligned where they are to be."""
        return self.matrix.ingredient(self.ids.index(index))

    def _read(self, index: int) -> State:
        state = ingredient_store.read(self.run.ingredient(index)).state
        return state if self.alignment is None else permute(self.model, state, self.alignment.of(index))

    def align(self, alignment: Alignment | None) -> None:
        """Permute the ingredients' units so from now on; None: leave them as they are."""
        self.alignment, self._matrix = alignment, None

    def mix(self, alpha_GN: Tensor, by: Grouping) -> State:
        """The weights that alpha mixes."""
        return mixing.mix(self.matrix, alpha_GN.to(self.device), by)

    def state(self, candidate: Candidate, statistics: Statistics = "own") -> State | None:
        """The weights of a mixture; None for an ensemble, which is no one model.

        statistics: "own": recomputed where the model has any, but those of an ingredient as it is; "anew": of it too.
        """
        if candidate.of == "predictions":
            return None
        if candidate.state is not None:
            state = {name: tensor.to(self.device) for name, tensor in candidate.state.items()}
            return state if statistics == "mixed" else self.evaluator.recompute(state)
        state = self.mix(candidate.alpha, candidate.by)
        one = int((candidate.alpha != 0.0).any(0).sum()) == 1 and bool((candidate.alpha.sum(1) == 1.0).all())
        as_mixed = statistics == "mixed" or (one and statistics == "own")
        return state if as_mixed else self.evaluator.recompute(state)

    def _members(self, candidate: Candidate, statistics: Statistics) -> Members:
        state = self.state(candidate, statistics)
        if state is not None:
            return [state]
        return [self.matrix.ingredient(index) for index in candidate.alpha[0].nonzero().flatten().tolist()]

    def metrics(self, candidates: Sequence[Candidate]) -> list[float]:
        """Exact metric of each mixture on validation nodes. Rank-collective."""
        made = [partial(self._members, candidate, self._of_candidates) for candidate in candidates]
        return self.evaluator.metrics_of(made, Role.VALIDATION)

    def metrics_between(self, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        """Exact validation metrics of share * start + (1 - share) * end, alphas (1, N). Rank-collective."""
        mixed = [(share, Candidate(share * start + (1.0 - share) * end)) for share in shares]
        between = [(share, partial(self._members, candidate, self._of_candidates)) for share, candidate in mixed]
        return self.evaluator.metrics_between(
            lambda: (self.mix(start, "model"), self.mix(end, "model")), between, Role.VALIDATION
        )

    def predictions(
        self, candidate: Candidate, roles: Sequence[Role], statistics: Statistics = "own"
    ) -> list[Predictions]:
        """Exact metrics of a mixture on the nodes of some roles, node by node. Rank-collective; no method has this.

        statistics: as of `state`.
        """
        return self.evaluator.predictions(partial(self._members, candidate, statistics), roles)
