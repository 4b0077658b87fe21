"""How a run's ingredients are aligned before any method sees them.

Rank 0 reads and writes files and finds orders; all ranks evaluate means, and permute what they read.

The reference is the ingredient with the best validation metric that its file records, of equals the first.

`soup.align = "auto"` measures the barrier where soups are made: the validation metric of the mean of all ingredients.
1. Where all share their initial state, and the mean is not worse than the ingredients' own mean metric by more than the
   error, they are left as they are: one evaluation.
2. Else units are matched by weights, and the mean is evaluated once more. It must be better than before by more
   than the error, or the ingredients are left as they are.
The error is twice the binomial error of the validation nodes; of a metric that is no share of them, that of the mean
ingredient's metric over bootstrap samples.
"""

from __future__ import annotations

from contextlib import closing
from statistics import mean

import numpy as np
import torch

from gnnsoup_hpc.alignment.matching import match_all_by_weights, match_by_activations
from gnnsoup_hpc.alignment.symmetry import identity_permutation, unit_layouts
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.alignment import AlignmentRecord
from gnnsoup_hpc.io.records import Alignment
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.models.base import LayeredModel
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.types import Align, Permutation, Role, State
from gnnsoup_hpc.utils.hashing import fingerprint

_WAY = 2  # counts up when other orders may be found for the same ingredients


def align_ingredients(job: Job, mixtures: Mixtures, selection: Selection, log: Log, again: bool = False) -> None:
    """Align the mixtures' ingredients as the run's alignment says, found and published first where it is not there.

    again: found anew. Rank-collective. Raises: JobError for a model of which nothing may be permuted.
    """
    if job.soup.align not in ("none", "auto") and mixtures.model.symmetries is None:
        raise JobError(
            f"soup.align = {job.soup.align!r}: a model of kind {mixtures.model.kind!r} does not say which of its units"
            " may be permuted; use 'auto' or 'none'"
        )
    mixtures.align(None)  # orders are found of ingredients as they are
    if job.soup.align == "none" or not unit_layouts(mixtures.model) or len(selection.fit) == 1:
        return
    comm, run, starts, record = mixtures.comm, mixtures.run, [], None
    if comm.rank == 0:
        origins = (ingredient_store.origin(run.ingredient(index)) for index in selection.fit)
        starts = [str(origin.get("initial_sha256", "")) for origin in origins]
        starts = starts if all(starts) else [""] * len(starts)  # not known of what other programs trained
        record = None if again else files.read_kept(run.alignment, alignment_store.read, log, "soup")
    starts, record = comm.bcast((starts, record))
    recipe = _hash_inputs(job, mixtures, selection, starts)
    if record is None or record.recipe != recipe:
        mixtures.clear()
        with mixtures.meter as meter:
            alignment, why = _find_alignment(job, mixtures, selection, starts)
        mixtures.clear()
        record = comm.bcast(AlignmentRecord(alignment, why, meter.measurement, recipe))
        log.say(f"soup: {record.text} ({record.measurement['seconds']:.2f} s)")
        if comm.rank == 0:
            alignment_store.write(run.alignment, record, job)
    mixtures.align(None if record.alignment.by == "none" else record.alignment)


def _hash_inputs(job: Job, mixtures: Mixtures, selection: Selection, starts: list[str]) -> str:
    """Hash of everything that an alignment is a function of; starts: hashes of what ingredients were trained from."""
    soup, graph = job.soup, mixtures.graph
    asked = [_WAY, soup.align, soup.seed, soup.precision, soup.pls.union if soup.align == "activations" else 0]
    weights = {f"{index:04d}": sha256 for index, sha256 in selection.fit.items()}
    of = [asked, graph.sha256, str(graph.cut["part_sha256"]), weights, starts]
    means = graph.resolve_task(job.task).values  # by which the reference is chosen
    return fingerprint([*of, means] if means else of)


def _find_alignment(job: Job, mixtures: Mixtures, selection: Selection, starts: list[str]) -> tuple[Alignment, str]:
    """An alignment, and why it is as it is. Rank-collective.

    Ingredients that started apart are always matched; of imported ones the barrier to their mean tells.
    """
    if job.soup.align != "auto":
        return _match(job, mixtures, selection, job.soup.align), "set by soup.align"
    task = mixtures.evaluator.task
    left = Alignment("none", selection.best(task), mixtures.ids, {})
    before, own = _measure_mean(mixtures), mean(selection.accuracies.values())
    known = [draws for draws in selection.draws.values() if draws is not None]
    draws = np.mean(known, axis=0) if len(known) == len(selection.accuracies) else None
    error = 2.0 * task.error(own, int(mixtures.graph.validation_counts.sum()), draws)
    if len(set(starts)) == 1 and score(task, before) >= score(task, own) - error:
        scores = f"uniform soup {before:.4f}, mean ingredient {own:.4f} (validation)"
        why = "shared initial state" if starts[0] else "no barrier to the mean of all"
        return left, f"no alignment needed: {why}; {scores}"
    matched = _match(job, mixtures, selection, "weights")
    mixtures.align(matched)
    after = _measure_mean(mixtures)
    mixtures.align(None)
    scores = f"uniform soup {before:.4f} before, {after:.4f} after (validation, error {task.show(error)})"
    if score(task, after) > score(task, before) + error:
        return matched, scores
    return left, f"not aligned, matching by weights does not help: {scores}"


def _measure_mean(mixtures: Mixtures) -> float:
    count = len(mixtures.ids)
    return mixtures.metrics([Candidate(torch.full((1, count), 1.0 / count, dtype=torch.float64))])[0]


def _match(job: Job, mixtures: Mixtures, selection: Selection, by: Align) -> Alignment:
    """To the reference, which is left as it is; by weights, then all together. Rank 0 finds it."""
    model, best = mixtures.model, selection.best(mixtures.evaluator.task)
    reference = mixtures.ids.index(best)
    orders: list[Permutation] = []
    if mixtures.comm.rank == 0:
        states = [mixtures.matrix.ingredient(number) for number in range(len(mixtures.ids))]
        with mixtures.settings.threads.alone():
            if by == "weights":
                orders = match_all_by_weights(model, states, reference, job.soup.seed)
            elif isinstance(model, LayeredModel):
                orders = _match_by_activations(model, mixtures, states, reference, job.soup.pls.union)
    orders = mixtures.comm.bcast(orders)
    stacked = {name: np.stack([order[name] for order in orders]) for name in unit_layouts(model)}
    return Alignment(by, best, mixtures.ids, stacked)


def _match_by_activations(
    model: LayeredModel, mixtures: Mixtures, states: list[State], reference: int, size: int
) -> list[Permutation]:
    """As many ingredients at once as there is room for their sums.

    For each such lot every part is read once, in unions of `size` neighbours, as validation nodes see them.
    """
    graph, device = mixtures.graph, mixtures.device
    unions = [range(first, min(first + size, graph.parts)) for first in range(0, graph.parts, size)]
    seeded = [union for union in unions if graph.validation_counts[union.start : union.stop].any()]
    orders = [identity_permutation(model)] * len(states)
    others = [number for number in range(len(states)) if number != reference]
    room = max(1, mixtures.settings.memory // 4 // estimate.moments(model))
    for lot in (others[first : first + room] for first in range(0, len(others), room)):
        batches = loader.stream_unions(graph, seeded, Role.VALIDATION, lambda batch: batch.to(device), prefetch=False)
        with closing(batches):
            found = match_by_activations(model, states[reference], [states[number] for number in lot], batches)
        for number, order in zip(lot, found, strict=True):
            orders[number] = order
    return orders
