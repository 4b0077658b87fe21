"""Joint passes of LS and PLS: from alphas to class scores and back, each rank on the rows of its own nodes.

What travels is alphas (G, N), border rows between layers (shards.py), class scores of asked nodes with their gradients,
and gradients of alpha, (G, N) float64. No graph, no weights and no gradient of weights does.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from gnnsoup_hpc import engine
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Planned, Ready
from gnnsoup_hpc.engine.compiled.gat.passes import GatForwardBackward as AttentionPass
from gnnsoup_hpc.engine.compiled.passes import ForwardBackward, HaloExchange
from gnnsoup_hpc.engine.compiled.plan import Plan
from gnnsoup_hpc.engine.compiled.threads import Span, Workspace
from gnnsoup_hpc.engine.sharding import NodeShare
from gnnsoup_hpc.evaluation import evaluator
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.types import Dense, Grouping, IntArray, Role, State
from gnnsoup_hpc.utils.rng import numpy_generator


@dataclass(frozen=True)
class PartDraws:
    """Which unions of parts are gone through: `steps` of `size` random parts, or without end.

    prefetch: a thread reads the next one meanwhile. exact: the first hop is the whole graph's.
    """

    seed: int
    size: int
    steps: int | None = None
    prefetch: bool = True
    exact: bool = False


class RankPasses:
    """One rank's side: its views one after the other, and one pass at a time."""

    def __init__(
        self, station: MixtureEvaluator, split: NodeShare | None = None, swap: HaloExchange | None = None
    ) -> None:
        self._station, self._split, self._swap = station, split, swap
        self._space = Workspace()  # of one union after the other
        self._views: Generator[Ready] | None = None
        self._ready: Ready | None = None
        self._pass: ForwardBackward | AttentionPass | None = None
        self._by: Grouping = "model"

    def open(self, unions: PartDraws | None) -> None:
        """Begin to go through unions; None: the whole graph again and again."""
        self._views = self._whole() if unions is None else self._unions(unions)

    def turn(self) -> Ready | None:
        """The next view, in place of the last one, whose memory it may use; None after the last."""
        assert self._views is not None
        self._ready = self._pass = None
        for ready in islice(self._views, 1):
            self._ready = ready
        return self._ready

    def close(self) -> None:
        """Be done with views."""
        if self._views is not None:
            self._views.close()
        self._views = self._ready = self._pass = None

    def _whole(self) -> Generator[Ready]:
        whole = self._station.whole if self._split is None else self._station.shard(self._split)
        while True:
            yield whole

    def _unions(self, which: PartDraws) -> Generator[Ready]:
        station = self._station
        draws = loader.draw_unions(station.graph.validation_counts, which.size, numpy_generator(which.seed, 1))
        with ExitStack() as stack:
            hop = stack.enter_context(station.first_hop(lambda line: None)) if which.exact else None
            drawn = islice(draws, which.steps)
            made = loader.stream_unions(station.graph, drawn, Role.VALIDATION, self._prepared, which.prefetch, hop)
            yield from stack.enter_context(closing(made))

    def _prepared(self, view: Batch) -> Ready:
        station = self._station
        view = view.to(station.device)
        return engine.plan_batch(station.architecture, view, self._space, station.precision, self._split)

    @torch.no_grad()
    def classes(self, tastes: Sequence[Candidate], roles: Sequence[Role]) -> list[IntArray]:
        """Of each mixture, predicted classes of this rank's share of the nodes of some roles, (n,)."""
        return [self._classes(taste, self._shard(roles)) for taste in tastes]

    def _classes(self, taste: Candidate, plan: Planned) -> IntArray:
        station = self._station
        state = station.state(taste)
        if state is not None:
            return self._predicted(self._scores(state, plan))
        start, stop = plan.shard.own
        total = torch.zeros(stop - start, station.architecture.classes)
        for index in taste.alpha[0].nonzero().flatten().tolist():
            total += self._scores(station.shelf.state(station.shelf.weights[index]), plan).softmax(1)
        return self._predicted(total)

    def _scores(self, state: State, plan: Planned) -> Tensor:
        assert self._swap is not None
        return engine.compute_local_logits(self._station.architecture, state, plan, self._swap)

    def along(self, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[IntArray]:
        """The same of share * start + (1 - share) * end, alphas (1, N) of whole models, on validation nodes."""
        station, plan = self._station, self._shard((Role.VALIDATION,))
        if not isinstance(plan, Plan):  # whose first layer is not linear in the weights
            return self.classes(
                [Candidate(share * start + (1.0 - share) * end) for share in shares], (Role.VALIDATION,)
            )
        first, last = (station.mixture(alpha, "model") for alpha in (start, end))
        line = engine.LinearInterpolator.between(station.architecture, first, last, plan, self._swap)
        found = []
        for share in shares:
            state = station.mixture(share * start + (1.0 - share) * end, "model")
            found.append(self._predicted(line.scores(station.architecture, state, share)))
        line.close()
        return found

    def _shard(self, roles: Sequence[Role]) -> Planned:
        assert self._split is not None
        return self._station.shard(self._split, roles)

    @staticmethod
    def _predicted(scores: Tensor) -> IntArray:
        found: IntArray = evaluator.predict(scores).numpy()
        return found

    def forward(self, alpha_GN: Tensor, by: Grouping, ready: Ready | None = None) -> tuple[Span, Dense]:
        """Class scores (n, C) of this rank's asked nodes of a view, and which of all asked nodes these are.

        ready: the view; None for the one in turn.
        """
        ready = self._ready if ready is None else ready
        assert isinstance(ready, Planned), "a view on a GPU has no pass of its own"
        state = self._station.mixture(alpha_GN, by)
        self._by = by
        self._pass = engine.begin(self._station.architecture, state, ready, self._swap)
        return ready.shard.asked, self._pass.forward()

    def backward(self, grad: Dense) -> Tensor:
        """What this rank's rows add to the gradient of alpha, (G, N) float64, given that of its class scores."""
        assert self._pass is not None
        grads, self._pass = self._pass.backward(grad), None
        return mixing.gradient(self._station.shelf, grads, self._by)
