"""Ingredients from files of other programs, and of other runs: compared with the job's model, measured, published."""

from __future__ import annotations

import glob
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.task import NO_TASK, RANGES, WORDS
from gnnsoup_hpc.data.prepare import is_made, note_job, prepare
from gnnsoup_hpc.errors import FileError, ForeignFileError, JobError, RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator, note_judgement
from gnnsoup_hpc.evaluation.tasks import Task, score
from gnnsoup_hpc.io import checkpoint_files, files, imports, states
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import summary as gathered
from gnnsoup_hpc.io.checkpoint_files import Difference, FittedState, ForeignState
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.imports import ImportedFile
from gnnsoup_hpc.io.ingredient import ImportedOrigin
from gnnsoup_hpc.io.records import Ingredient
from gnnsoup_hpc.memory import estimate, limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Demand, Limit
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.leases import LeaseMonitor
from gnnsoup_hpc.runtime.profiling import QUANTITIES
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.task_board import remove_leftovers
from gnnsoup_hpc.types import Role
from gnnsoup_hpc.utils.paths import expand_home
from gnnsoup_hpc.utils.text_table import align_columns

WORK = "import"
POLL_SECONDS = 0.5
OTHER_NAME = "give the job a name of its own (--set name=…)"


def find_files(words: Sequence[str]) -> list[Path]:
    """The files that paths and patterns name, sorted, each once. Raises: FileError where one names none."""
    found = dict[Path, Path]()
    for word in words:
        path = expand_home(word)
        named = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not named:
            raise FileError(f"no file is named {word!r}, nor fits it as a pattern (from {Path.cwd()})")
        if folder := next((each for each in named if each.is_dir()), None):
            raise FileError(f"{folder} is a folder: name its files, for example '{folder}/*.pt'")
        for each in named:
            found.setdefault(each.resolve(), each)
    return sorted(found.values())


def import_all(job: Job, words: Sequence[str], key: str, here: RankInfo, log: Log, offline: bool = False) -> None:
    """Prepare the job's graph if it is not there yet, and import the files that paths and patterns name. On rank 0.

    Raises: JobError for a sweep of training; as `find_files`, `prepare` and `import_files` do.
    """
    if job.sweep.trains:
        raise JobError(f"{job.name} sweeps training, and takes no ingredients from elsewhere: leave [sweep] out")
    if here.rank > 0:
        return
    paths, device = find_files(words), launch.claim_machine(job.machine, here)
    if not is_made(job):
        limits.refuse_before_graph(Limit.of(job, here))
    prepare(job, here, log, offline=offline)
    import_files(job, paths, key, here, device, log)


def import_files(job: Job, paths: Sequence[Path], key: str, here: RankInfo, device: torch.device, log: Log) -> None:
    """Make the states in files ingredients of the job's run, whose graph is there. By one rank.

    Files that are imported already are left as they are; new ones are added. Another command that imports to the run is
    waited for. key: as in `checkpoint_files.read`.
    Raises: FileError where a file cannot be read, or does not fit the model, before anything is written; RunError where
    the run has other ingredients, or a file has changed since it was imported; MemoryLimitError.
    """
    run, monitor, said = RunDir.of(job), LeaseMonitor(), False
    lease = run.lease(WORK)
    while True:
        with leases.hold(lease, launch.describe(here), monitor) as ours:
            if ours:
                with graph_store.open_graph(run.graph, job) as graph:
                    model = make_model_for(graph, job.model, graph.resolve_task(job.task).outputs)
                    Importer(job, run, model, graph, here, device, log, key).run_all(paths)
                break
        if not said:
            log.say(f"import: waiting for {leases.describe_holder(lease)}, who imports to {run.root}")
            said = True
        time.sleep(POLL_SECONDS)
        log.stop.check()
    remove_leftovers(run, {WORK})


@dataclass
class Importer:
    """Makes ingredients of files. job: with the number of ingredients, once that is known."""

    job: Job
    run: RunDir
    model: Model
    graph: GraphFile
    here: RankInfo
    device: torch.device
    log: Log
    key: str

    def run_all(self, paths: Sequence[Path]) -> None:
        """Compare all files, then import each that is not there yet."""
        known = self._read_known()
        if not known:
            self._refuse_trained()
        rows, sources = self._compare(paths, known)
        imports.check_count(self.job, self.run, len(rows))
        self.job = imports.set_count(self.job, len(rows))
        faults = {row: fault for row in rows if (fault := self._find_fault(row))}
        for row, fault in faults.items():
            if row.ingredient not in sources:
                raise RunError(f"{fault}, and {row.file}, from which it was imported, is not named: name it too")
        evaluator = self._make_evaluator() if faults else None
        if rows != known:
            imports.write(self.run.imported, rows, self.job)
        note_job(self.job)
        if len(faults) < len(rows):
            self.log.say(f"import: {len(rows) - len(faults)} of {len(rows)} ingredients are there already")
        if evaluator is not None:
            made = [self._import(row, sources[row.ingredient], evaluator) for row in faults]
            self._compare_with_baseline(evaluator.task, [one for one in made if one.hyperparameters is None])
        self._gather(rows)

    def _read_known(self) -> list[ImportedFile]:
        """What was imported before."""
        kept = files.read_kept(self.run.imported, imports.read_sound, self.log, "import")
        return list(kept or ())

    def _refuse_trained(self) -> None:
        """Raises: RunError where the run has ingredients that were trained, or begun to be."""
        begun = [path for path in (self.run.initial, self.run.trunk) if path.exists()]
        for path in [*begun, *sorted(self.run.ingredients.glob("*.h5"))]:
            if path in begun or not self._is_imported(path):
                raise RunError(
                    f"{self.run.root} is a run of trained ingredients ({path.name}), to which none are imported:"
                    f" {OTHER_NAME}; these can be imported too, as '{self.run.ingredients}/*.h5'"
                )

    def _is_imported(self, path: Path) -> bool:
        try:
            return "imported" in ingredient_store.origin(path)
        except FileError:  # it is made again, or refused, once it is known what it is to be
            return True

    def _compare(
        self, paths: Sequence[Path], known: Sequence[ImportedFile]
    ) -> tuple[list[ImportedFile], dict[str, Path]]:
        """Rows of all ingredients, and the file of each that is among `paths`, by its name. One state is in memory."""
        rows, sources, differences = list(known), dict[str, Path](), list[Difference]()
        for path in paths:
            found, fitted = self._read(path)
            differences += fitted.differences
            if fitted.differences:
                continue
            place, sha256 = str(path.absolute()), states.sha256(fitted.state)
            row = next((row for row in rows if row.state_sha256 == sha256), None)
            if row is None:
                self._refuse_changed(rows, place, found.key)
                about = place, found.sha256, found.key, fitted.prefix, sha256
                rows.append(row := ImportedFile(f"{len(rows):04d}", *about))
            elif row.ingredient in sources:
                self.log.say(
                    f"import: {path} has the weights of {row.ingredient} ({row.file}), and is left out: equal"
                    " ingredients gain nothing"
                )
            sources.setdefault(row.ingredient, path)
        if differences:
            self._refuse_different(differences, len(paths))
        return rows, sources

    def _read(self, path: Path) -> tuple[ForeignState, FittedState]:
        found = checkpoint_files.read(path, self.key)
        model = self.model
        return found, checkpoint_files.fit(found, model.shapes(), model.integers, model.ties)

    def _refuse_changed(self, rows: Sequence[ImportedFile], place: str, key: str) -> None:
        for row in rows:
            if (row.file, row.key) == (place, key):
                raise RunError(
                    f"{place} has changed since it was imported as {row.ingredient}: {OTHER_NAME}, or put it back as it"
                    " was"
                )

    def _refuse_different(self, differences: Sequence[Difference], count: int) -> None:
        rows = [("file", "entry", "has", "wants"), *((d.file, d.entry, d.has, d.wants) for d in differences)]
        lines = "\n".join(map(str.rstrip, align_columns(rows, left=None)))
        self.log.say(f"import: where files differ from the job's model:\n{lines}")
        wrong = len({difference.file for difference in differences})
        raise FileError(
            f"{wrong} of {count} files do not fit the job's model ({self._describe_model()}), as listed; nothing is"
            " imported: set [model] to what they are, or leave them out"
        )

    def _describe_model(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.model.record().items())

    def _origin(self, row: ImportedFile) -> ImportedOrigin:
        task = self.graph.resolve_task(self.job.task).values
        return ImportedOrigin(self.graph.sha256, self.model, row, task=task)

    def _find_fault(self, row: ImportedFile) -> str:
        """What is wrong with the file of an ingredient; empty if it is there and right. Raises: RunError."""
        path = self.run.ingredient(row.index)
        if not path.exists():
            return f"{path} is not there"
        try:
            ingredient_store.read_imported(path, self._origin(row))
        except ForeignFileError as error:
            raise RunError(f"{error}: {OTHER_NAME}, or move {path} away") from None
        except FileError as error:
            return str(error)
        return ""

    def _import(self, row: ImportedFile, source: Path, evaluator: Evaluator) -> Ingredient:
        """Measure a state, and publish it. What this package measured on this very graph holds."""
        path = self.run.ingredient(row.index)
        if path.exists():
            self.log.say(f"import: {path} is damaged: set aside as {files.set_aside(path).name}, and imported again")
        found, fitted = self._read(source)
        if fitted.differences or states.sha256(fitted.state) != row.state_sha256:
            raise FileError(f"{source} changed while it was imported: give the same command again")
        made, trained = self._read_training(found, row)
        made = replace(made, index=row.index, state=fitted.state, imported=row.name)
        if not self._is_judged(found, row):
            members = [{name: tensor.to(self.device) for name, tensor in fitted.state.items()}]
            validation, test = evaluator.predictions(lambda: members, (Role.VALIDATION, Role.TEST))
            made = replace(
                made,
                validation_accuracy=validation.metric,
                test_accuracy=test.metric,
                judged=note_judgement(evaluator.task, validation, test),
            )
        about = {"rank": self.here.rank, "threads": torch.get_num_threads(), "device": str(self.device)}
        ingredient_store.write(path, made, replace(self._origin(row), trained=trained), self.job, **about)
        taken = [found.key, fitted.prefix and f"without {fitted.prefix}", ", ".join(fitted.types)]
        how = f" ({'; '.join(filter(None, taken))})" if any(taken) else ""
        reached = f"validation {made.validation_accuracy:.4f}, test {made.test_accuracy:.4f}"
        self.log.say(f"import: {row.ingredient} from {source}{how}: {reached}")
        return made

    def _is_judged(self, found: ForeignState, row: ImportedFile) -> bool:
        """Whether a file is an ingredient of this package, measured on the run's graph, by its task, as its model."""
        if found.made is None:
            return False
        wanted = NO_TASK | self._origin(row).wanted | {"index": found.made[0].index}
        was = NO_TASK | dict(found.made[1])
        return all(was.get(name) == value for name, value in wanted.items())

    def _read_training(self, found: ForeignState, row: ImportedFile) -> tuple[Ingredient, dict[str, Any]]:
        """What is known of an ingredient's training, and by what values: nothing but of one of another run."""
        if found.made is None:
            return Ingredient(row.index, {}, (), 0, nan, nan, None, "", dict.fromkeys(QUANTITIES, nan), ""), {}
        made, origin = found.made
        if origin.get("graph_sha256") != self.graph.sha256:
            self.log.say(
                f"import: {found.path} is of another graph, or another split, than the run's: it may have been trained"
                " on nodes that it is tested on here"
            )
        kept = "initial_sha256", "trunk_sha256", "previous_sha256"
        return made, {name: value for name, value in origin.items() if name.startswith("train.") or name in kept}

    def _make_evaluator(self) -> Evaluator:
        """What measures, within the memory limit. Raises: MemoryLimitError."""
        sizes, limit = Sizes.of(self.graph, self.model, self.device), Limit.of(self.job, self.here, self.device)
        way, least = estimate.least_inference(sizes)
        limits.refuse(limit, [Demand(f"an ingredient, and {way}", estimate.mixing(self.model, 1) + least)])
        settings = EvalSettings(self.device, max(0, limit.room), self.run.root, gpu=limit.gpu, task=self.job.task)
        return Evaluator(self.graph, self.model, settings)

    def _compare_with_baseline(self, task: Task, made: Sequence[Ingredient]) -> None:
        """Say where checkpoints are hardly of use here: they may have been trained on features in another form.

        Hardly: half of them are no more than their error above what looks at no node, or a tenth of what is above that.
        """
        if not made:
            return
        labels = self.graph.y(0, self.graph.nodes)[self.graph.role(0, self.graph.nodes) == Role.VALIDATION]
        baseline = task.baseline(labels)
        middle = sorted(made, key=lambda one: score(task, one.validation_accuracy))[len(made) // 2]
        reached, draws = middle.validation_accuracy, middle.judged.validation_draws
        error = 2.0 * task.error(reached, len(labels), draws)
        ideal = RANGES.get(task.name, (0.0, 1.0))[task.higher_is_better]
        margin = max(error if isfinite(error) else 0.0, abs(ideal - baseline) / 10.0)
        if score(task, reached) - score(task, baseline) <= margin:
            given = ", ".join(self._list_preparation())
            prepared = f"what this job makes of features and edges ({given})" if given else "these features and edges"
            self.log.say(
                f"import: the median validation {WORDS[task.name]}, {reached:.4f}, is hardly better than that of"
                f" {task.guess_words} ({baseline:.4f}): see that the checkpoints were trained on {prepared}, and on"
                " labels in the same order"
            )

    def _list_preparation(self) -> list[str]:
        """Settings of [graph] that change what the source has."""
        job = self.job.graph
        turned = [name for name in ("undirected", "reverse") if getattr(job, name)]
        named = [(name, getattr(job, name)) for name in ("features", "self_loops")]
        return [
            *(f'graph.{name} = "{value}"' for name, value in named if value not in ("none", "keep")),
            *(f"graph.{name} = true" for name in turned),
        ]

    def _gather(self, rows: Sequence[ImportedFile]) -> None:
        paths = [self.run.ingredient(row.index) for row in rows]
        if gathered.names(self.run.gathered) != [path.stem for path in paths]:
            gathered.gather(self.run.gathered, paths, ingredient_store.read(paths[0]).state, self.job)
