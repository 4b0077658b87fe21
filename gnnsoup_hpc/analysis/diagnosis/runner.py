"""A diagnosis: measure averages of ingredients, publish diagnosis.h5; one that is there and still fits is kept."""

from __future__ import annotations

import time
from dataclasses import replace
from math import nan
from pathlib import Path

from gnnsoup_hpc.alignment.symmetry import unit_layouts
from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import compute_errors, is_one_basin, make_columns
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.evaluation.averages import VARIANTS, evaluate_averages
from gnnsoup_hpc.evaluation.tasks import rank_by_score, score
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import Diagnosed, Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.mixtures import Mixtures
from gnnsoup_hpc.soup.selection import Selection


def diagnose(job: Job, selection: Selection, mixtures: Mixtures, log: Log, again: bool = False) -> Diagnosis:
    """The diagnosis of these ingredients: that of diagnosis.h5, or (`again`, always) a new one. Rank-collective.

    Of the fit ingredients of a selection: N alone; of a way to align them, N - 1 midpoints and the mean of all. Other
    ways than "as trained" are measured where that one shows that something is wrong, and the model says which units may
    be permuted. Running statistics of batch norm are recomputed of all alike, and the best is that of ingredients with
    their own, N evaluations more, as greedy and GIS have it. Rank 0 alone reads and writes files.
    """
    path, comm, task = mixtures.run.diagnosis, mixtures.comm, mixtures.evaluator.task
    weights = {f"{index:04d}": sha256 for index, sha256 in selection.fit.items()}
    left_out = tuple(selection.unfit.values())
    also = dict(mixtures.graph.resolve_task(job.task).values)
    also |= {"recompute": "none"} if mixtures.model.statistics and not mixtures.evaluator.recomputes else {}
    fingerprint = diagnosis_store.fingerprint_of(mixtures.graph.sha256, weights, left_out, list(VARIANTS), also)

    def read(path: Path) -> Diagnosis | None:
        return diagnosis_store.read(path) if diagnosis_store.read_fingerprint(path) == fingerprint else None

    kept = comm.bcast(files.read_kept(path, read, log, "diagnose") if comm.rank == 0 and not again else None)
    if kept is not None:
        log.say("diagnose: the diagnosis is there already")
        return kept
    found = comm.bcast(_measure(selection, mixtures))
    if comm.rank == 0:
        columns, verdicts = make_columns(found, task), verdict(found, job, task)
        diagnosis_store.write(path, found, columns, verdicts, fingerprint, job)
    count = len(found.ingredients)
    evaluations = count * (1 + found.recomputed + len(found.variants))
    log.say(f"diagnose: {count} ingredients, {evaluations} evaluations, {found.seconds:.2f} s")
    return found


def _measure(selection: Selection, mixtures: Mixtures) -> Diagnosis:
    """Measured exactly, in float32, whatever the job's soups are computed in."""
    began = time.perf_counter()
    mixtures.evaluator.engine.warm_up(mixtures.model)
    mixtures.clear(exact=True)
    ids, comm, run, evaluator = list(selection.fit), mixtures.comm, mixtures.run, mixtures.evaluator
    singles = [(index,) for index in ids]
    own = alone = evaluate_averages(run, evaluator, singles, statistics="mixed")
    if evaluator.recomputes:
        alone = evaluate_averages(run, evaluator, singles)
    best = ids[rank_by_score([score(evaluator.task, result.accuracy) for result in own], ids)[0]]
    others = [index for index in ids if index != best]
    described = comm.bcast(_describe(run, selection, alone) if comm.rank == 0 else ())
    nodes, left_out = int(mixtures.graph.validation_counts.sum()), tuple(selection.unfit.values())
    about = described, left_out, (), 0.0, evaluator.task.name, evaluator.recomputes
    found = Diagnosis(mixtures.graph.sha256, nodes, f"{best:04d}", *about)
    by_name = {f"{index:04d}": result for index, result in zip(ids, alone, strict=True)}
    ways = [*VARIANTS.items()] if unit_layouts(mixtures.model) else [*VARIANTS.items()][:1]
    for variant, setting in ways if others else ():
        groups = [*((best, other) for other in others), (best, *others)]
        *halfway, mean = evaluate_averages(run, evaluator, groups, align=bool(setting))
        named = {f"{other:04d}": result for other, result in zip(others, halfway, strict=True)}
        way = Midpoints(variant, setting, named, mean)
        way = replace(way, errors=compute_errors(way, by_name, found.best, nodes, evaluator.task))
        found = replace(found, variants=(*found.variants, way))
        if is_one_basin(found, evaluator.task):
            break
    mixtures.clear()
    return replace(found, seconds=time.perf_counter() - began)


def _describe(run: RunDir, selection: Selection, alone: list[EvalResult]) -> tuple[Diagnosed, ...]:
    """What the ingredients' files say of them."""
    found = []
    for (index, sha256), result in zip(selection.fit.items(), alone, strict=True):
        path = run.ingredient(index)
        how, origin = ingredient_store.read(path).hyperparameters, ingredient_store.origin(path)
        start = str(origin.get("initial_sha256", ""))
        rate, epochs = (how.learning_rate, float(how.epochs)) if how else (nan, nan)
        found.append(Diagnosed(f"{index:04d}", result.accuracy, result.loss, sha256, start, rate, epochs))
    return tuple(found)
