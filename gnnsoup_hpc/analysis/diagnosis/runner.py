"""A diagnosis: measure averages of ingredients, publish diagnosis.h5; one that is there and still fits is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import is_one_basin, make_columns
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, RunError
from gnnsoup_hpc.evaluation.averages import VARIANTS, AlignmentVariant, AverageSpec
from gnnsoup_hpc.evaluation.tasks import rank_by_score
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.records import Diagnosed, Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.mixtures import Mixtures
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.types import Role


def select_sound(job: Job, run: RunDir, model: Model) -> Selection:
    """Every ingredient of the run that can be mixed at all, whatever it was trained by: that is what to look at.

    Raises: RunError where there is none.
    """
    fit: dict[int, str] = {}
    unfit: dict[int, str] = {}
    for index in range(job.train.ingredients):
        path = run.ingredient(index)
        try:
            state = ingredient_store.read(path).state
            states.check_shapes(path, state, model)
            fit[index] = states.sha256(state)
        except FileError as error:
            unfit[index] = str(error)
    if not fit:
        first = next(iter(unfit.values()))
        raise RunError(f"{run.ingredients} holds no ingredient to diagnose ({first}): run `gnnsoup train JOB` first")
    return Selection(fit, unfit)


def diagnose(job: Job, selection: Selection, mixtures: Mixtures, log: Log, again: bool = False) -> Diagnosis:
    """The diagnosis of these ingredients: that of diagnosis.h5, or (`again`, always) a new one. Rank-collective."""
    return _Examination(job, selection, mixtures, log).run(again)


@dataclass(frozen=True)
class _Examination:
    """Of the fit ingredients of a selection: N alone; of a way to align them, N - 1 midpoints and the mean of all.

    Other ways than "as trained" are measured where that one shows that something is wrong. Rank 0 alone reads and
    writes files.
    """

    job: Job
    selection: Selection
    mixtures: Mixtures
    log: Log

    def run(self, again: bool) -> Diagnosis:
        path, fingerprint = self.mixtures.run.diagnosis, self._fingerprint()
        rank0, comm = self.mixtures.comm.rank == 0, self.mixtures.comm
        there = comm.bcast(self._read(path, fingerprint) if rank0 and not again else None)
        if there is not None:
            self.log.say("diagnose: the diagnosis is there already")
            return there
        found = comm.bcast(self._measure())
        if rank0:
            columns, verdicts = make_columns(found), verdict(found, self.job)
            diagnosis_store.write(path, found, columns, verdicts, fingerprint, self.job)
        count = len(self._ids)
        evaluations = count * (1 + len(found.lineups))
        self.log.say(f"diagnose: {count} ingredients, {evaluations} evaluations, {found.seconds:.2f} s")
        return found

    def _read(self, path: Path, fingerprint: str) -> Diagnosis | None:
        if not path.exists():
            return None
        try:
            return diagnosis_store.read(path) if diagnosis_store.read_fingerprint(path) == fingerprint else None
        except FileError as error:
            self.log.say(f"diagnose: {error}; made again")
            return None

    @property
    def _ids(self) -> list[int]:
        return list(self.selection.fit)

    def _fingerprint(self) -> str:
        weights = {f"{index:04d}": sha256 for index, sha256 in self.selection.fit.items()}
        names = [variant.name for variant in VARIANTS]
        return diagnosis_store.fingerprint_of(self.mixtures.graph.sha256, weights, self._left_out, names)

    @property
    def _left_out(self) -> tuple[str, ...]:
        return tuple(self.selection.unfit.values())

    def _measure(self) -> Diagnosis:
        """Measured exactly, in float32, whatever the job's soups are computed in."""
        began, mixtures = time.perf_counter(), self.mixtures
        mixtures.evaluator.engine.warm_up(mixtures.model)
        mixtures.clear(exact=True)
        ids, graph = self._ids, mixtures.graph
        alone = mixtures.averages([AverageSpec((index,)) for index in ids])
        best = ids[rank_by_score([result.accuracy for result in alone], ids)[0]]
        others = [index for index in ids if index != best]
        found = Diagnosis(
            graph_sha256=graph.sha256,
            nodes=int((graph.role(0, graph.nodes) == Role.VALIDATION).sum()),
            best=f"{best:04d}",
            ingredients=mixtures.comm.bcast(self._describe(alone)),
            left_out=self._left_out,
            lineups=(),
            seconds=0.0,
        )
        for variant in VARIANTS if others else ():
            found = replace(found, lineups=(*found.lineups, self._measure_midpoints(variant, best, others)))
            if is_one_basin(found):
                break
        mixtures.clear()
        return replace(found, seconds=time.perf_counter() - began)

    def _measure_midpoints(self, variant: AlignmentVariant, best: int, others: list[int]) -> Midpoints:
        specs = [AverageSpec((best, other), variant.name) for other in others]
        *halfway, mean = self.mixtures.averages([*specs, AverageSpec((best, *others), variant.name)])
        named = {f"{other:04d}": result for other, result in zip(others, halfway, strict=True)}
        return Midpoints(variant.name, variant.setting, named, mean)

    def _describe(self, alone: list[EvalResult]) -> tuple[Diagnosed, ...]:
        """What the ingredients' files say of them; rank 0's."""
        if self.mixtures.comm.rank > 0:
            return ()
        found = []
        for index, result in zip(self._ids, alone, strict=True):
            path = self.mixtures.run.ingredient(index)
            how = ingredient_store.read(path).hyperparameters
            start = str(ingredient_store.origin(path).get("initial_sha256", ""))
            sha256 = self.selection.fit[index]
            found.append(Diagnosed(f"{index:04d}", result, sha256, start, how.learning_rate, how.epochs))
        return tuple(found)
