"""How a run's ingredients are aligned before any method sees them; rank 0 finds it, all ranks permute what they read.

The reference is the ingredient with the highest validation accuracy that its file records, of equals the first.

`soup.align = "auto"` measures the barrier where soups are made: the validation accuracy of the mean of all ingredients.
1. Where all share their initial state, and the mean is not below the ingredients' own mean accuracy by more than the
   error, they are left as they are: one evaluation.
2. Else units are matched by weights, and the mean is told again: another one. It must be better than before by more
   than the error, or the ingredients are left as they are.
The error is twice the binomial error of the validation nodes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

import numpy as np
import torch

from gnnsoup_hpc import alignment as matching
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.alignment import AlignmentRecord
from gnnsoup_hpc.io.records import Alignment
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.types import Align, Permutation, Role, State
from gnnsoup_hpc.utils.hashing import fingerprint
from gnnsoup_hpc.utils.stats import binomial_error

_WAY = 2  # counts up when other orders may be found for the same ingredients


@dataclass(frozen=True)
class Aligner:
    """Rank 0's side. `weights`: each ingredient's hash; `memory`: bytes that sums over states may take a part of."""

    job: Job
    run: RunDir
    station: MixtureEvaluator
    weights: dict[int, str]
    memory: int
    log: Log

    def brought(self, again: bool = False) -> Alignment | None:
        """The run's alignment, found and published first where it is not there (or `again`); None: leave all as is."""
        if (
            self.job.soup.align == "none"
            or not matching.unit_layouts(self.station.architecture)
            or len(self.weights) == 1
        ):
            return None
        made = self._there() if not again else None
        if made is None:
            made = self._found()
            alignment_store.write(self.run.alignment, made, self.job)
        return None if made.alignment.by == "none" else made.alignment

    def _there(self) -> AlignmentRecord | None:
        if not self.run.alignment.exists():
            return None
        try:
            made = alignment_store.read(self.run.alignment)
        except FileError as error:
            self.log.say(f"soup: {error}; made again")
            return None
        return made if made.recipe == self._recipe else None

    def _found(self) -> AlignmentRecord:
        self.station.clear()
        with self.station.meter as meter:
            by, orders, why = self._decided()
        self.station.clear()
        what = "left as they are" if by == "none" else f"put in the order of {self.reference:04d}'s, matched by {by}"
        self.log.say(f"soup: hidden units {what}: {why} ({meter.measurement['seconds']:.2f} s)")
        return AlignmentRecord(self._alignment(by, orders), why, meter.measurement, self._recipe)

    def _alignment(self, by: Align, orders: list[Permutation]) -> Alignment:
        names = matching.unit_layouts(self.station.architecture) if orders else ()
        stacked = {name: np.stack([order[name] for order in orders]) for name in names}
        return Alignment(by, self.reference, tuple(self.weights), stacked)

    def _decided(self) -> tuple[Align, list[Permutation], str]:
        if self.job.soup.align == "weights":
            return "weights", self._by_weights(), "the job says so"
        if self.job.soup.align == "activations":
            return "activations", self._by_activations(), "the job says so"
        before, own = self._accuracy_of_mean(), mean(self._accuracies.values())
        error = 2.0 * binomial_error(own, int(self.station.graph.validation_counts.sum()))
        told = f"the mean of all has validation accuracy {before:.4f}"
        if self._share_start and before >= own - error:
            return "none", [], f"{told}, they themselves {own:.4f}, and their start is one"
        orders = self._by_weights()
        self.station.align(self._alignment("weights", orders))
        after = self._accuracy_of_mean()
        self.station.align(None)
        told += f", and {after:.4f} with units matched by weights; the error is {100 * error:.2f} points"
        return ("weights", orders, told) if after > before + error else ("none", [], told)

    def _accuracy_of_mean(self) -> float:
        count = len(self.weights)
        return self.station.accuracy(Candidate(torch.full((1, count), 1.0 / count, dtype=torch.float64)))

    def _by_weights(self) -> list[Permutation]:
        """To the reference, then all together; the reference is left as it is."""
        states = [self._state(index) for index in self.weights]
        reference = list(self.weights).index(self.reference)
        return matching.match_all_by_weights(self.station.architecture, states, reference, self.job.soup.seed)

    def _by_activations(self) -> list[Permutation]:
        """As many ingredients at once as there is room for their sums; the graph is streamed for each such lot."""
        net, here = self.station.architecture, self._state(self.reference)
        others = [index for index in self.weights if index != self.reference]
        sums = 8 * net.hidden**2 * max(1, net.layers - 1)
        found = {self.reference: matching.identity_permutation(net)}
        size = max(1, self.memory // 4 // sums)
        for first in range(0, len(others), size):
            lot = others[first : first + size]
            with closing(self._views()) as views:
                orders = matching.match_by_activations(net, here, [self._state(index) for index in lot], views)
            found |= dict(zip(lot, orders, strict=True))
        return [found[index] for index in self.weights]

    def _views(self) -> Generator[Batch]:
        """Every part once, in unions of neighbours, as validation nodes see them."""
        graph, device = self.station.graph, self.station.device
        size, parts = self.job.soup.pls.union, range(graph.parts)
        unions = (parts[first : first + size] for first in range(0, len(parts), size))
        asked = [union for union in unions if graph.validation_counts[union.start : union.stop].any()]
        return loader.stream_unions(graph, asked, Role.VALIDATION, lambda view: view.to(device), prefetch=False)

    def _state(self, index: int) -> State:
        shelf = self.station.shelf
        return shelf.state(shelf.weights[shelf.ids.index(index)])

    @cached_property
    def _accuracies(self) -> dict[int, float]:
        """Validation accuracies that the ingredients' files record."""
        return {index: ingredient_store.read(self.run.ingredient(index)).validation_accuracy for index in self.weights}

    @cached_property
    def reference(self) -> int:
        """The ingredient whose order of units the others take."""
        return min(self.weights, key=lambda index: (-self._accuracies[index], index))

    @cached_property
    def _starts(self) -> list[str]:
        return [str(ingredient_store.origin(self.run.ingredient(index))["initial_sha256"]) for index in self.weights]

    @property
    def _share_start(self) -> bool:
        return len(set(self._starts)) == 1

    @property
    def _recipe(self) -> str:
        """Hash of everything that an alignment is a function of."""
        soup, graph = self.job.soup, self.station.graph
        asked = [_WAY, soup.align, soup.seed, soup.precision, soup.pls.union if soup.align == "activations" else 0]
        weights = {f"{index:04d}": sha256 for index, sha256 in self.weights.items()}
        return fingerprint([asked, graph.sha256, str(graph.cut["part_sha256"]), weights, self._starts])
