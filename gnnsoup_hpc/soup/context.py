"""What a method may use, and no more: accuracies and gradients on validation nodes, subgraphs, seeds, progress.

A kitchen has no test label, so a method cannot leak one by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Ready
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.evaluation.calibration import fit_temperature
from gnnsoup_hpc.runtime.profiling import COUNTS
from gnnsoup_hpc.runtime.progress import Bar, Log
from gnnsoup_hpc.soup.joint import PartDraws
from gnnsoup_hpc.soup.parameter_matrix import ParameterMatrix
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.soup.team import Team
from gnnsoup_hpc.types import Grouping
from gnnsoup_hpc.utils.rng import numpy_generator

Trace = Callable[[int, Tensor], None]


def ignore_step(number: int, alpha_GN: Tensor) -> None:
    """Keep nothing of a step."""


@dataclass(frozen=True)
class LossResult:
    """A loss to take the gradient of, the accuracy on all validation nodes, and the loss on held-out ones, or NaN."""

    loss: Tensor
    accuracy: float
    held_out: float


class SoupContext:
    """One method's kitchen; it counts forward and backward passes and books the time of reading.

    `trace` is told alpha (G, N) after each step of a learned method.
    """

    def __init__(self, station: MixtureEvaluator, team: Team, seed: int, log: Log, trace: Trace = ignore_step) -> None:
        self._station = station
        self._team = team
        self._log = log
        self.seed = seed
        self.trace = trace
        self.counts = dict.fromkeys(COUNTS, 0)

    @property
    def ingredients(self) -> int:
        """N."""
        return self._station.size

    @property
    def parts(self) -> int:
        """K."""
        return self._station.graph.parts

    @property
    def shelf(self) -> ParameterMatrix:
        """All ingredients."""
        return self._station.shelf

    @property
    def device(self) -> torch.device:
        """Where weights and subgraphs are."""
        return self._station.device

    def accuracies(self, tastes: Sequence[Candidate]) -> list[float]:
        """Exact validation accuracies of mixtures on the whole graph, shared among ranks, in their order."""
        passes = [int((t.alpha[0] != 0).sum()) if t.of == "predictions" else 1 for t in tastes]
        self.counts["forward_whole"] += sum(passes)
        return self._team.accuracies(self._station, tastes)

    def along(self, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        """Exact validation accuracies of share * start + (1 - share) * end, alphas (1, N), shared among ranks."""
        self.counts["forward_whole"] += len(shares)
        return self._team.along(self._station, start, end, shares)

    def each_ingredient(self) -> list[float]:
        """Validation accuracy of every ingredient, (N,)."""
        return self.accuracies([Candidate(row[None]) for row in torch.eye(self.ingredients, dtype=torch.float64)])

    def whole_for_ever(self) -> Generator[Ready]:
        """Endless stream of the whole graph, or of this rank's part of it where ranks compute on it together."""
        yield from self._views(None)

    def unions(
        self, size: int, steps: int | None = None, prefetch: bool = True, exact: bool = False
    ) -> Generator[Ready]:
        """Stream of `steps` subgraphs, or without end, each induced by `size` random parts.

        With `prefetch`, a thread reads the next one meanwhile; close the stream to end it. With `exact`, the first hop
        is the whole graph's. Time is booked on "graph" while the consumer waits.
        """
        if exact:
            with self._station.meter.phase("graph"), self._station.first_hop(self._say):
                pass  # made, where it is not there
        yield from self._views(PartDraws(self.seed, size, steps, prefetch, exact))

    def _views(self, which: PartDraws | None) -> Generator[Ready]:
        """One view after the other; each is kept under no name, or its memory could not be used again."""
        with self._team.views(self._station, which) as turn:
            while view := self._next(turn):
                yield view.pop()

    def _next(self, turn: Callable[[], Ready | None]) -> list[Ready]:
        with self._station.meter.phase("graph"):
            view = turn()
            return [] if view is None else [view]

    def _say(self, line: str) -> None:
        self._log.say(f"soup: {line}")

    def kept_out(self, share: float, where: str, size: int | None = None) -> Iterator[Tensor | None]:
        """A mask (n,) of held-out validation nodes for each view of `whole_for_ever`, or of `unions(size)`; or None.

        Of every part's n nodes floor(share n), by the seed, so that each part keeps some to fit on.
        Raises: JobError where that is none of all; `where` names the option.
        """
        if not share:
            return repeat(None)
        counts = self._station.graph.validation_counts
        if not (counts * share >= 1.0).any():
            raise JobError(
                f"{where} = {share} keeps out none of the {counts.max()} or fewer validation nodes of each part:"
                " choose a larger share, or 0 for none"
            )
        parts = [self._mask(part, int(count), share) for part, count in enumerate(counts)]
        everything = range(len(counts))
        drawn = repeat(everything) if size is None else loader.draw_unions(counts, size, numpy_generator(self.seed, 1))
        return (torch.cat([parts[part] for part in chosen]) for chosen in drawn)

    def _mask(self, part: int, count: int, share: float) -> Tensor:
        mask = torch.zeros(count, dtype=torch.bool)
        mask[numpy_generator(self.seed, 2, part).permutation(count)[: int(share * count)]] = True
        return mask.to(self.device)

    def loss(
        self, alpha_GN: Tensor, by: Grouping, view: Ready, scaled: bool = False, kept_out: Tensor | None = None
    ) -> LossResult:
        """Mean cross-entropy of a mixture on a view's validation nodes, differentiable in alpha; the accuracy there.

        The view is the last one that a stream of this kitchen's gave, or one that it needs no other rank for.

        `scaled`: of logits times the scale with the lowest loss. Nodes of the mask `kept_out` (n,) have no part in
        either; their own mean is told beside it.
        """
        self._count("forward", view)
        logits = self._team.scores(self._station, alpha_GN, by, view)
        with torch.no_grad():
            right = int((logits.argmax(1) == view.labels).sum()) / len(view.labels)
        fit, labels = (logits, view.labels) if kept_out is None else (logits[~kept_out], view.labels[~kept_out])
        scale = fit_temperature(fit, labels) if scaled else 1.0
        loss = functional.cross_entropy(fit * scale if scaled else fit, labels)
        if kept_out is None:
            return LossResult(loss, right, float("nan"))
        held_out = functional.cross_entropy(logits.detach()[kept_out] * scale, view.labels[kept_out])
        return LossResult(loss, right, float(held_out))

    def backward(self, loss: Tensor, view: Ready) -> None:
        """Gradients of `loss`."""
        self._count("backward", view)
        loss.backward()  # type: ignore[no-untyped-call]

    def bar(self, total: int, title: str) -> Bar:
        """Progress of the method."""
        return self._log.bar(total, title)

    def _count(self, kind: str, view: Ready) -> None:
        whole = view.size == self._station.graph.nodes
        self.counts[f"{kind}_{'whole' if whole else 'union'}"] += 1
