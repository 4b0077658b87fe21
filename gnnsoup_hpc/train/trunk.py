"""The trunk of a run: of as many starts as the job asks for, the best after its last epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

from gnnsoup_hpc.errors import DivergedError, FileError
from gnnsoup_hpc.evaluation.tasks import Task, score
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.records import Trunk, TrunkStart
from gnnsoup_hpc.runtime.profiling import combine
from gnnsoup_hpc.runtime.progress import Bar
from gnnsoup_hpc.train.checkpointing import CheckpointManager
from gnnsoup_hpc.train.loop import TrainData, train_trunk
from gnnsoup_hpc.types import State


def train_starts(
    data: TrainData,
    initial: State,
    checkpoints: CheckpointManager,
    path: Path,
    watch: Callable[[str], AbstractContextManager[Bar]],
) -> Trunk:
    """Train a trunk from each start of the job, one after the other: the one with the best validation metric.

    The first start is `initial`, and each is trained as the only one of a job with its seed would be. Those that are
    over are kept at `path` while others are to come. watch: a block in which one is trained, given its name.
    Raises: DivergedError where all diverge; Preempted; OvertakenError.
    """
    job, origin = checkpoints.job, checkpoints.origin
    seeds, how = ingredient_store.list_trunk_seeds(job), replace(origin.hyperparameters, trunk_starts=1)
    best = _read_best(path, checkpoints)
    while best is None or len(best.starts) < len(seeds):
        number = len(best.starts) if best else 0
        seed, name = seeds[number], f" (start {number + 1} of {len(seeds)})" if len(seeds) > 1 else ""
        start = data.model.init_state(seed) if number else initial
        sha256 = states.sha256(start)
        recipe = replace(origin, seed=seed, initial_sha256=sha256, hyperparameters=how)
        own = replace(checkpoints, title=f"{checkpoints.title}{name}", origin=recipe)
        with watch(name) as bar:
            made = train_trunk(data, start, how, seed, bar, own)
            best = _choose(best, made, TrunkStart(seed, sha256, _judge(made), made.measurement["seconds"]), data)
            if len(best.starts) == len(seeds) and all(isnan(each.validation_accuracy) for each in best.starts):
                raise DivergedError(f"the trunk {made.diverged}: lower train.learning_rate = {how.learning_rate:g}")
        if len(best.starts) < len(seeds):
            ingredient_store.write_trunk(path, best, origin, job, **checkpoints.provenance)
            own.forget()
    return best


def describe_starts(trunk: Trunk) -> str:
    """What it was chosen from, at the end of a sentence; nothing where there was one start."""
    if len(trunk.starts) < 2:
        return ""
    others = [each.validation_accuracy for number, each in enumerate(trunk.starts) if number != trunk.chosen]
    reached = ", ".join("diverged" if isnan(value) else f"{value:.4f}" for value in others)
    return f", the best of {len(trunk.starts)} starts (seed {trunk.starts[trunk.chosen].seed}; others: {reached})"


def _read_best(path: Path, checkpoints: CheckpointManager) -> Trunk | None:
    """The best trunk of the starts that are over; a file that is damaged, or of another recipe, is said and left."""
    if not path.exists():
        return None
    try:
        best = ingredient_store.read_trunk(path, checkpoints.origin)
    except FileError as error:
        checkpoints.log.say(f"train: {error}; {checkpoints.title} begins anew")
        return None
    starts = f"{len(best.starts)} of {checkpoints.job.train.trunk_starts} starts"
    checkpoints.log.say(f"train: {checkpoints.title} goes on after {starts}, from {path}")
    return best


def _judge(made: Trunk) -> float:
    """Its validation metric between epochs, after the last; NaN where it diverged."""
    return nan if made.diverged else made.history[-1].validation_accuracy


def _choose(best: Trunk | None, made: Trunk, row: TrunkStart, data: TrainData) -> Trunk:
    """The better of two trunks, of equals the first, with the starts and the cost of all. One that diverged loses."""
    if best is None:
        return replace(made, starts=(row,))
    task: Task = data.evaluator.task
    before, now = best.starts[best.chosen].validation_accuracy, row.validation_accuracy
    starts, spent = (*best.starts, row), combine(best.measurement, made.measurement)
    if isnan(before) or score(task, now) > score(task, before):
        return replace(made, starts=starts, chosen=len(starts) - 1, measurement=spent)
    return replace(best, starts=starts, measurement=spent)
