"""Rank 0's side of a diagnosis: ask the team, publish diagnosis.h5; one that is there and still fits is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from gnnsoup_hpc import engine
from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import is_one_basin, make_columns
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, RunError
from gnnsoup_hpc.evaluation.averages import AverageSpec
from gnnsoup_hpc.evaluation.variants import VARIANTS, AlignmentVariant
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.records import Diagnosed, Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.ranking import rank_by_accuracy
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.soup.station import MixtureEvaluator
from gnnsoup_hpc.soup.team import Team
from gnnsoup_hpc.types import Role


def select_sound(job: Job, run: RunDir, architecture: Architecture) -> Selection:
    """Every ingredient of the run that can be mixed at all, whatever it was trained by: that is what to look at.

    Raises: RunError where there is none.
    """
    fit: dict[int, str] = {}
    unfit: dict[int, str] = {}
    for index in range(job.train.ingredients):
        path = run.ingredient(index)
        try:
            state = ingredient_store.read(path).state
            states.check_shapes(path, state, architecture)
            fit[index] = states.sha256(state)
        except FileError as error:
            unfit[index] = str(error)
    if not fit:
        first = next(iter(unfit.values()))
        raise RunError(f"{run.ingredients} holds no ingredient to diagnose ({first}): run `gnnsoup train JOB` first")
    return Selection(fit, unfit)


@dataclass(frozen=True)
class Examination:
    """Of the fit ingredients of a selection: N alone; of a way to line them up, N - 1 midpoints and the mean of all.

    Other ways than "as trained" are asked about where that one shows that something is wrong.
    """

    job: Job
    run: RunDir
    selection: Selection
    station: MixtureEvaluator
    team: Team
    log: Log

    def done(self, again: bool = False) -> Diagnosis:
        """The diagnosis of these very ingredients: that of diagnosis.h5, or (`again`, always) a new one."""
        path, recipe = self.run.diagnosis, self._recipe()
        if not again and path.exists():
            try:
                if diagnosis_store.read_fingerprint(path) == recipe:
                    self.log.say("diagnose: the diagnosis is there already")
                    return diagnosis_store.read(path)
            except FileError as error:
                self.log.say(f"diagnose: {error}; made again")
        found = self._made()
        diagnosis_store.write(path, found, make_columns(found), verdict(found, self.job), recipe, self.job)
        count = len(self._ids)
        evaluations = count * (1 + len(found.lineups))
        self.log.say(f"diagnose: {count} ingredients, {evaluations} evaluations, {found.seconds:.2f} s")
        return found

    @property
    def _ids(self) -> list[int]:
        return list(self.selection.fit)

    def _recipe(self) -> str:
        weights = {f"{index:04d}": sha256 for index, sha256 in self.selection.fit.items()}
        names = [way.name for way in VARIANTS]
        return diagnosis_store.fingerprint_of(self.station.graph.sha256, weights, self._left_out, names)

    @property
    def _left_out(self) -> tuple[str, ...]:
        return tuple(self.selection.unfit.values())

    def _made(self) -> Diagnosis:
        """Measured exactly, in float32, whatever the job's soups are computed in."""
        began = time.perf_counter()
        engine.warm_up(self.job.model.kind)
        self.team.tell("clear", True)
        self.station.clear(exact=True)
        ids = self._ids
        alone = self.team.weighed(self.station, [AverageSpec((index,)) for index in ids])
        best = ids[rank_by_accuracy([judgement.accuracy for judgement in alone], ids)[0]]
        others = [index for index in ids if index != best]
        graph = self.station.graph
        found = Diagnosis(
            graph_sha256=graph.sha256,
            nodes=int((graph.role(0, graph.nodes) == Role.VALIDATION).sum()),
            best=f"{best:04d}",
            ingredients=tuple(self._diagnosed(index, own) for index, own in zip(ids, alone, strict=True)),
            left_out=self._left_out,
            lineups=(),
            seconds=0.0,
        )
        for way in VARIANTS if others else ():
            found = replace(found, lineups=(*found.lineups, self._midpoints(way, best, others)))
            if is_one_basin(found):
                break
        self.team.tell("clear")
        self.station.clear()
        return replace(found, seconds=time.perf_counter() - began)

    def _midpoints(self, way: AlignmentVariant, best: int, others: list[int]) -> Midpoints:
        loads = [AverageSpec((best, other), way.name) for other in others] + [AverageSpec((best, *others), way.name)]
        *halfway, mean = self.team.weighed(self.station, loads)
        named = {f"{other:04d}": judgement for other, judgement in zip(others, halfway, strict=True)}
        return Midpoints(way.name, way.setting, named, mean)

    def _diagnosed(self, index: int, alone: EvalResult) -> Diagnosed:
        path = self.run.ingredient(index)
        how = ingredient_store.read(path).hyperparameters
        start = str(ingredient_store.origin(path).get("initial_sha256", ""))
        return Diagnosed(f"{index:04d}", alone, self.selection.fit[index], start, how.learning_rate, how.epochs)
