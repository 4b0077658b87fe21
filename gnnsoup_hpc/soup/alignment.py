"""How a run's ingredients are aligned before any method sees them.

Rank 0 reads and writes files and finds orders; all ranks evaluate means, and permute what they read.

The reference is the ingredient with the highest validation accuracy that its file records, of equals the first.

`soup.align = "auto"` measures the barrier where soups are made: the validation accuracy of the mean of all ingredients.
1. Where all share their initial state, and the mean is not below the ingredients' own mean accuracy by more than the
   error, they are left as they are: one evaluation.
2. Else units are matched by weights, and the mean is evaluated once more. It must be better than before by more
   than the error, or the ingredients are left as they are.
The error is twice the binomial error of the validation nodes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from statistics import mean

import numpy as np
import torch

from gnnsoup_hpc import alignment as matching
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.alignment import AlignmentRecord
from gnnsoup_hpc.io.records import Alignment
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.models.base import LayeredModel
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.types import Align, Permutation, Role, State
from gnnsoup_hpc.utils.hashing import fingerprint

_WAY = 2  # counts up when other orders may be found for the same ingredients


def align_ingredients(job: Job, mixtures: Mixtures, weights: dict[int, str], log: Log, again: bool = False) -> None:
    """Align the mixtures' ingredients as the run's alignment says, found and published first where it is not there.

    weights: each ingredient's hash; again: found anew.
    Rank-collective. Raises: JobError for a model of which nothing may be permuted.
    """
    if job.soup.align not in ("none", "auto") and mixtures.model.symmetries is None:
        raise JobError(
            f"soup.align = {job.soup.align!r}: a model of kind {mixtures.model.kind!r} does not say which of its units"
            " may be permuted; use 'auto' or 'none'"
        )
    mixtures.align(None)  # orders are found of ingredients as they are
    if job.soup.align == "none" or not matching.unit_layouts(mixtures.model) or len(weights) == 1:
        return
    aligner = _Aligner(job, mixtures, weights, log)
    rank0 = mixtures.comm.rank == 0
    record = mixtures.comm.bcast(aligner.read() if rank0 and not again else None)
    if record is None:
        record = aligner.find()
        if rank0:
            alignment_store.write(mixtures.run.alignment, record, job)
    mixtures.align(None if record.alignment.by == "none" else record.alignment)


class _Aligner:
    """One rank's side. What the ingredients' files say is read by rank 0."""

    def __init__(self, job: Job, mixtures: Mixtures, weights: dict[int, str], log: Log) -> None:
        """Rank-collective."""
        self.job, self.mixtures, self.weights, self.log = job, mixtures, weights, log
        self._accuracies, self._starts = mixtures.comm.bcast(self._read_facts())
        self.reference = min(weights, key=lambda index: (-self._accuracies[index], index))

    def _read_facts(self) -> tuple[dict[int, float], list[str]]:
        """Validation accuracies that the ingredients' files record, and hashes of what each was trained from."""
        if self.mixtures.comm.rank > 0:
            return {}, []
        paths = {index: self.mixtures.run.ingredient(index) for index in self.weights}
        accuracies = {index: ingredient_store.read(path).validation_accuracy for index, path in paths.items()}
        return accuracies, [str(ingredient_store.origin(path)["initial_sha256"]) for path in paths.values()]

    def read(self) -> AlignmentRecord | None:
        """That of the run, if it is there and of these ingredients; rank 0 alone."""
        record = files.read_kept(self.mixtures.run.alignment, alignment_store.read, self.log, "soup")
        return record if record is not None and record.recipe == self._fingerprint else None

    def find(self) -> AlignmentRecord:
        """A new one. Rank-collective."""
        mixtures = self.mixtures
        mixtures.clear()
        with mixtures.meter as meter:
            alignment, why = self._decide()
        mixtures.clear()
        found = mixtures.comm.bcast(AlignmentRecord(alignment, why, meter.measurement, self._fingerprint))
        self.log.say(f"soup: {found.text} ({found.measurement['seconds']:.2f} s)")
        return found

    def _decide(self) -> tuple[Alignment, str]:
        """An alignment, and why it is as it is."""
        if self.job.soup.align == "weights":
            return self._match_by_weights(), "the job says so"
        if self.job.soup.align == "activations":
            return self._match_by_activations(), "the job says so"
        mixtures, task = self.mixtures, self.mixtures.evaluator.task
        left = Alignment("none", self.reference, tuple(self.weights), {})
        before, own = self._score_of_mean(), mean(self._accuracies.values())
        error = 2.0 * task.error(own, int(mixtures.graph.validation_counts.sum()))
        why = f"the mean of all has validation accuracy {before:.4f}"
        if len(set(self._starts)) == 1 and before >= own - error:
            return left, f"{why}, they themselves {own:.4f}, and their start is one"
        matched = self._match_by_weights()
        mixtures.align(matched)
        after = self._score_of_mean()
        mixtures.align(None)
        why += f", and {after:.4f} with units matched by weights; the error is {100 * error:.2f} points"
        return matched if after > before + error else left, why

    def _score_of_mean(self) -> float:
        count = len(self.weights)
        alpha = torch.full((1, count), 1.0 / count, dtype=torch.float64)
        return self.mixtures.metrics([Candidate(alpha)])[0]

    def _match_by_weights(self) -> Alignment:
        """To the reference, then all together; the reference is left as it is. Rank 0 finds it."""
        mixtures = self.mixtures
        found: list[Permutation] = []
        if mixtures.comm.rank == 0:
            states = [self._state(index) for index in self.weights]
            reference = list(self.weights).index(self.reference)
            with mixtures.settings.threads.alone():
                found = matching.match_all_by_weights(mixtures.model, states, reference, self.job.soup.seed)
        return self._stack("weights", mixtures.comm.bcast(found))

    def _match_by_activations(self) -> Alignment:
        """As many ingredients at once as there is room for their sums; the graph is streamed for each such lot."""
        mixtures = self.mixtures
        found: dict[int, Permutation] = {}
        if mixtures.comm.rank == 0 and isinstance(mixtures.model, LayeredModel):
            net, here = mixtures.model, self._state(self.reference)
            others = [index for index in self.weights if index != self.reference]
            found = {self.reference: matching.identity_permutation(net)}
            size = max(1, mixtures.settings.memory // 4 // estimate.moments(net))
            with mixtures.settings.threads.alone():
                for first in range(0, len(others), size):
                    lot = others[first : first + size]
                    with closing(self._batches()) as batches:
                        orders = matching.match_by_activations(net, here, [self._state(i) for i in lot], batches)
                    found |= dict(zip(lot, orders, strict=True))
        found = mixtures.comm.bcast(found)
        return self._stack("activations", [found[index] for index in self.weights])

    def _stack(self, by: Align, orders: list[Permutation]) -> Alignment:
        names = matching.unit_layouts(self.mixtures.model)
        stacked = {name: np.stack([order[name] for order in orders]) for name in names}
        return Alignment(by, self.reference, tuple(self.weights), stacked)

    def _batches(self) -> Generator[Batch]:
        """Every part once, in unions of neighbours, as validation nodes see them."""
        graph, device = self.mixtures.graph, self.mixtures.device
        size, parts = self.job.soup.pls.union, range(graph.parts)
        unions = (parts[first : first + size] for first in range(0, len(parts), size))
        seeded = [union for union in unions if graph.validation_counts[union.start : union.stop].any()]
        return loader.stream_unions(graph, seeded, Role.VALIDATION, lambda batch: batch.to(device), prefetch=False)

    def _state(self, index: int) -> State:
        matrix = self.mixtures.matrix
        return matrix.state(matrix.weights[matrix.ids.index(index)])

    @property
    def _fingerprint(self) -> str:
        """Hash of everything that an alignment is a function of."""
        soup, graph = self.job.soup, self.mixtures.graph
        asked = [_WAY, soup.align, soup.seed, soup.precision, soup.pls.union if soup.align == "activations" else 0]
        weights = {f"{index:04d}": sha256 for index, sha256 in self.weights.items()}
        return fingerprint([asked, graph.sha256, str(graph.cut["part_sha256"]), weights, self._starts])
