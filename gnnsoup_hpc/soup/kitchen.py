"""What a method may use, and no more: accuracies and gradients on validation nodes, subgraphs, seeds, progress.

A kitchen has no test label, so a method cannot leak one by accident.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc import engine, stream
from gnnsoup_hpc.engine import Ready
from gnnsoup_hpc.measure import COUNTS
from gnnsoup_hpc.progress import Bar, Log
from gnnsoup_hpc.records import Role, State
from gnnsoup_hpc.seeds import numpy_generator
from gnnsoup_hpc.soup.shelf import Shelf
from gnnsoup_hpc.soup.station import Station, Taste
from gnnsoup_hpc.soup.team import Team


class Kitchen:
    """One method's kitchen; it counts forward and backward passes and books the time of reading."""

    def __init__(self, station: Station, team: Team, seed: int, log: Log) -> None:
        self._station = station
        self._team = team
        self._log = log
        self.seed = seed
        self.counts = dict.fromkeys(COUNTS, 0)

    @property
    def ingredients(self) -> int:
        """N."""
        return self._station.size

    @property
    def shelf(self) -> Shelf:
        """All ingredients."""
        return self._station.shelf

    @property
    def device(self) -> torch.device:
        """Where weights and subgraphs are."""
        return self._station.device

    def accuracies(self, tastes: Sequence[Taste]) -> list[float]:
        """Exact validation accuracies of mixtures on the whole graph, shared among ranks, in their order."""
        passes = [int((t.alpha[0] != 0).sum()) if t.of == "predictions" else 1 for t in tastes]
        self.counts["forward_whole"] += sum(passes)
        return self._team.accuracies(self._station, tastes)

    def each_ingredient(self) -> list[float]:
        """Validation accuracy of every ingredient, (N,)."""
        return self.accuracies([Taste(row[None]) for row in torch.eye(self.ingredients, dtype=torch.float64)])

    def whole_for_ever(self) -> Iterator[Ready]:
        """Endless stream of the whole graph."""
        while True:
            yield self._station.whole

    def unions(self, size: int) -> Iterator[Ready]:
        """Endless stream of subgraphs induced by `size` random parts; one at a time in memory."""
        generator = numpy_generator(self.seed, 1)
        for chosen in stream.draws(self._station.graph.validation_counts, size, generator):
            yield self._union(chosen)  # kept under no name, or two unions would be in memory while one is read

    def _union(self, chosen: Sequence[int]) -> Ready:
        with self._station.meter.phase("graph"):
            view = stream.union_of_parts(self._station.graph, chosen, Role.VALIDATION).to(self.device)
            return engine.prepared(self._station.architecture, view)

    def loss(self, state: State, view: Ready, scale: Tensor | None = None) -> tuple[Tensor, float]:
        """Mean cross-entropy on the view's validation nodes (of logits times `scale`), and the accuracy there."""
        self._count("forward", view)
        logits = engine.scores(self._station.architecture, state, view)
        with torch.no_grad():
            right = int((logits.argmax(1) == view.labels).sum()) / len(view.labels)
        return functional.cross_entropy(logits if scale is None else logits * scale, view.labels), right

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
