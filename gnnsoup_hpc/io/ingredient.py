"""ingredients/NNNN.h5, what ingredients start from, and where their training stands. Format: docs/format.md.

These are initial.h5, trunk.h5, and checkpoints/WORK.h5 of an ingredient or of the trunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.task import NO_TASK, RANGES
from gnnsoup_hpc.config.turns import Hyperparameters, base_hyperparameters, hyperparameters
from gnnsoup_hpc.errors import FileError, ForeignFileError, RunError
from gnnsoup_hpc.graph.sampling import resolve_sampler
from gnnsoup_hpc.io import files, imports, judged, states
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.imports import ImportedFile
from gnnsoup_hpc.io.records import Epoch, Ingredient, Trunk, TrunkStart
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import State
from gnnsoup_hpc.utils import rng
from gnnsoup_hpc.utils.hashing import canonical, content_sha256, fingerprint

KIND, VERSION = "ingredient", 1
TRUNK, TRUNK_VERSION = "trunk", 1
INITIAL, INITIAL_VERSION = "initial-state", 1
CHECKPOINT, CHECKPOINT_VERSION = "checkpoint", 1
IN_MEMORY_BYTES = 2 << 20  # a larger checkpoint is built on the disk, for training may have no more memory than it uses

# Not in an origin where they are so: recipes of files that were written before a field was there do not change.
_DEFAULTS: dict[str, Any] = (
    {"trunk_sha256": "", "previous_sha256": "", "train.shared_draws": [], "train.engine": "torch"}
    | NO_TASK
    | {
        f"train.{known.name}": known.default
        for known in fields(Hyperparameters)
        if known.default is not MISSING and known.name != "shared_draws"
    }
)


@dataclass(frozen=True)
class Origin:
    """What one ingredient, or the trunk, is a function of; equal origins give equal ones on the same machine.

    initial_sha256 is the hash of the state that its training began at, before any trunk: ingredients for which it is
    the same share their start. index: None for the trunk, which has no number, and for which nothing varies.
    """

    graph_sha256: str
    initial_sha256: str
    architecture: Model
    batch: str
    seed: int
    index: int | None
    hyperparameters: Hyperparameters
    batches: Mapping[str, Any] = field(default_factory=dict)  # what mini-batches depend on besides
    trunk_sha256: str = ""  # of the state that it branched from, where there is a trunk
    engine: str = "torch"  # "auto": any, where a job leaves it open
    task: Mapping[str, Any] = field(default_factory=dict)  # what differs from classes judged by accuracy
    previous_sha256: str = ""  # of the weights of the ingredient before it, where it goes on from them

    @classmethod
    def of(
        cls,
        job: Job,
        architecture: Model,
        graph: GraphFile,
        initial: str,
        index: int | None,
        trunk: str = "",
        previous: str = "",
    ) -> Origin:
        """The origin of a job's ingredient `index`, or trunk.

        Hashes: `initial` and `trunk` of the shared states, `previous` as `hash_previous` gives it.
        """
        train = job.train
        if index is None:
            how = base_hyperparameters(job).of_trunk
        else:
            how = hyperparameters(job, index)
            if how.start == "own":
                initial = states.sha256(make_own_start(architecture, train.seed, index))
        batches = _batches(job, graph)
        how_made = batches, trunk, train.engine, graph.resolve_task(job.task).values, previous
        return cls(graph.sha256, initial, architecture, train.batch, train.seed, index, how, *how_made)

    @property
    def values(self) -> dict[str, Any]:
        """Everything, flat and named as in the job; what has its default is left out where older files lack it."""
        values: dict[str, Any] = {"graph_sha256": self.graph_sha256}
        values |= {f"model.{key}": value for key, value in self.architecture.record().items()}
        values |= {f"train.{key}": value for key, value in asdict(self.hyperparameters).items()}
        values["train.shared_draws"] = sorted(self.hyperparameters.shared_draws)
        values["train.engine"] = self.engine
        values |= {"train.batch": self.batch, "train.seed": self.seed, "index": self.index} | dict(self.batches)
        values |= {"initial_sha256": self.initial_sha256, "trunk_sha256": self.trunk_sha256} | dict(self.task)
        values["previous_sha256"] = self.previous_sha256
        values = {key: value for key, value in values.items() if key not in _DEFAULTS or value != _DEFAULTS[key]}
        if values["index"] is None:
            del values["index"]
            values["train.trunk_epochs"] = values.pop("train.epochs")
        return values

    @property
    def recipe(self) -> str:
        """Hash of everything."""
        return fingerprint(self.values)


@dataclass(frozen=True)
class ImportedOrigin:
    """Where an imported ingredient comes from: the graph it was measured on, the model, and a file.

    trained: what an ingredient of another run says of its own training, `train.` and what it started from; else empty.
    """

    graph_sha256: str
    architecture: Model
    row: ImportedFile
    trained: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)  # as of `Origin`

    @property
    def wanted(self) -> dict[str, Any]:
        """What a file must agree with, beside its weights."""
        values: dict[str, Any] = {"graph_sha256": self.graph_sha256}
        values |= {f"model.{key}": value for key, value in self.architecture.record().items()}
        return values | {"index": self.row.index} | dict(self.task)

    @property
    def values(self) -> dict[str, Any]:
        """Everything, flat."""
        row = self.row
        file = {"file": row.name, "sha256": row.file_sha256, "key": row.key, "prefix": row.prefix}
        return dict(self.trained) | self.wanted | {"imported": file}

    @property
    def recipe(self) -> str:
        """Hash of everything."""
        return fingerprint(self.values)


@dataclass(frozen=True)
class BestEpoch:
    """The weights of the best validation epoch so far."""

    epoch: int
    accuracy: float
    state: State


@dataclass(frozen=True)
class Checkpoint:
    """Where the training of one model stands between two epochs: all that the next ones depend on.

    steps, mean, square: of Adam, by parameter; average: of weights, over `averaged` steps or epochs; generator: state
    of the dropout masks' generator, uint8, which only the same type of device takes; measurement: of everything until
    here.
    """

    history: tuple[Epoch, ...]
    state: State
    steps: Mapping[str, float]
    mean: State
    square: State
    generator: Tensor
    device: str
    best: BestEpoch | None
    measurement: Measurement
    average: State = field(default_factory=dict)
    averaged: int = 0


def _batches(job: Job, graph: GraphFile) -> dict[str, Any]:
    """What the job's mini-batches are drawn from; nothing more than the graph for full batches."""
    how = job.train
    if how.batch == "full":
        return {}
    parts = {"part_sha256": str(graph.cut["part_sha256"]), "train.clusters": how.clusters}
    if how.batch == "cluster":
        return parts | ({"train.first_hop": how.first_hop} if how.first_hop != "truncated" else {})
    drawn = {"train.batch_size": how.batch_size, "train.fanout": list(how.fanout)}
    hops = {"model.hops": job.model.hops} if job.model.hops else {}  # of a module; others have one a layer
    return parts | drawn | {"train.sampler": resolve_sampler(how.sampler)} | hops


def resolve_job(job: Job, run: RunDir) -> Job:
    """The job; where it leaves train.clusters (0) or train.sampler ("auto") open, with what the run was trained with.

    Then neither changes with the memory, or the program, of whoever goes on with a run. Open still where nothing is.
    Of imported ingredients there are as many as were imported.
    Raises: RunError where the job gives another number of these.
    """
    if rows := imports.read(run.imported):
        imports.check_count(job, run, len(rows))
        return imports.set_count(job, len(rows))
    how = job.train
    if how.clusters and (how.sampler != "auto" or how.batch != "neighbour"):
        return job
    known = _find_origin(job, run)
    if known is None:
        return job
    chosen: dict[str, Any] = {"clusters": how.clusters or int(known.get("train.clusters", 1))}
    if how.sampler == "auto" and "train.sampler" in known:
        chosen["sampler"] = known["train.sampler"]
    return job.model_copy(update={"train": how.model_copy(update=chosen)})


def find_engine_name(job: Job, run: RunDir) -> str:
    """What the job says in train.engine; of "auto", what the run was trained with so far, if with anything.

    So a run is not half of one engine and half of another because this program was installed anew in between.
    """
    known = _find_origin(job, run) if job.train.engine == "auto" else None
    return job.train.engine if known is None else str((_DEFAULTS | known)["train.engine"])


def _find_origin(job: Job, run: RunDir) -> dict[str, Any] | None:
    """The origin of the first file that can be read of what the run has trained, or begun to train."""
    ingredients = range(job.train.ingredients)
    paths = [(run.ingredient(index), KIND, VERSION) for index in ingredients] + [(run.trunk, TRUNK, TRUNK_VERSION)]
    names = "trunk", *(f"ingredient-{index:04d}" for index in ingredients)
    paths += [(run.checkpoint(name), CHECKPOINT, CHECKPOINT_VERSION) for name in names]
    paths += [(run.trunk_starts, TRUNK, TRUNK_VERSION)]
    for path, kind, version in paths:
        with suppress(FileError), files.read_file(path, kind, version) as file:
            return files.get_json(file["provenance"], "origin")
    return None


def make_own_start(architecture: Model, seed: int, index: int) -> State:
    """The initial state of ingredient `index` with train.start = "own"."""
    return architecture.init_state(rng.derive_seed(seed, rng.START, index))


def list_trunk_seeds(job: Job) -> list[int]:
    """The seed of each start of the trunk, of the first the job's own; each is one that train.seed may be."""
    seed = job.train.seed
    return [seed, *(rng.derive_seed(seed, rng.TRUNK, start) % 2**32 for start in range(1, job.train.trunk_starts))]


def hash_previous(job: Job, run: RunDir, index: int | None) -> str:
    """Hash of the weights that ingredient `index` goes on from: those of the one before it, if by train.start.

    Of the first, of the trunk, and of other starts "". Raises: FileError where the file before its own cannot be read.
    """
    if not index or job.train.start != "snapshots":
        return ""
    try:
        return states.sha256(read(run.ingredient(index - 1)).state)
    except FileError as error:
        raise FileError(f"{run.ingredient(index)} goes on from the ingredient before it, and {error}") from None


def write(path: Path, ingredient: Ingredient, origin: Origin | ImportedOrigin, job: Job, **provenance: object) -> None:
    """Publish one ingredient; of one whose training is not known, nothing is said of it."""
    with files.create_file(path, KIND, VERSION, f"ingredient {ingredient.index}: one trained model") as file:
        file.attrs["index"] = ingredient.index
        file.attrs["content_sha256"] = _content_sha256(ingredient)
        metrics = file.create_group("metrics", track_order=True)
        files.put(metrics, "validation_accuracy", ingredient.validation_accuracy, "1", "exact, on validation nodes")
        files.put(metrics, "test_accuracy", ingredient.test_accuracy, "1", "exact, on test nodes")
        judged.put(metrics, ingredient.judged)
        if ingredient.hyperparameters is None:
            _put_made(file, ingredient, origin, job, provenance)
            return
        files.put(metrics, "best_epoch", ingredient.best_epoch, "1", "epoch whose weights were kept")
        metrics.attrs["stopped"] = ingredient.stopped
        _put_training(file, ingredient, origin, job, provenance)


def _put_training(
    file: h5py.File,
    made: Ingredient | Trunk | Checkpoint,
    origin: Origin | ImportedOrigin,
    job: Job,
    provenance: Mapping[str, object],
) -> None:
    """Write what files of trainings have in common."""
    _put_made(file, made, origin, job, provenance)
    files.put_records(file, "history", Epoch, made.history, "one row an epoch")
    if origin.task.get("task.kind") == "regression":
        file["history/loss"].attrs["units"] = "1"
    files.put_cost(file, made.measurement)


def _put_made(
    file: h5py.File,
    made: Ingredient | Trunk | Checkpoint,
    origin: Origin | ImportedOrigin,
    job: Job,
    provenance: Mapping[str, object],
) -> None:
    """Write a state, and where it is from."""
    file.attrs["recipe"] = origin.recipe
    states.put(file, made.state)
    files.put_provenance(file, job.to_toml(), **provenance, origin=canonical(origin.values))


def read(path: Path, origin: Origin | None = None) -> Ingredient:
    """The ingredient in a file, if its weights are finite; with `origin`, only if it is of that origin.

    Raises: FileError naming the file and what is wrong with it; ForeignFileError where it is sound, but of another job.
    """
    with files.read_file(path, KIND, VERSION) as file:
        state = _read_state(path, file, origin)
        found = files.get_json(file["provenance"], "origin")
        how = _read_hyperparameters(path, found)
        return Ingredient(
            index=int(found["index"]),
            state=state,
            history=_get_history(file),
            best_epoch=int(files.get_number(file, "metrics/best_epoch", 0)),
            validation_accuracy=_get_accuracy(file, "metrics/validation_accuracy"),
            test_accuracy=_get_accuracy(file, "metrics/test_accuracy"),
            hyperparameters=how,
            stopped=files.get_text(file["metrics"], "stopped", ""),
            measurement=files.get_cost(file),
            engine=str((_DEFAULTS | found)["train.engine"]) if how else "",
            imported=str(found.get("imported", {}).get("file", "")),
            judged=judged.get(file["metrics"]),
        )


def _read_hyperparameters(path: Path, origin: Mapping[str, Any]) -> Hyperparameters | None:
    """What an ingredient was trained with; None where that is not known, of an imported one."""
    known, numbers = _DEFAULTS | dict(origin), ["index"]
    trained = "imported" not in known or "train.epochs" in known
    if trained:
        numbers += ["train.epochs", "train.learning_rate", "train.weight_decay", "train.dropout"]
    for name in numbers:
        if not isinstance(known.get(name), int | float):
            raise FileError(f"{path}: its origin has {name} = {known.get(name)!r}, where a number is expected")
    if not isinstance(known.get("imported", {}), dict):
        raise FileError(f"{path}: its origin has imported = {known['imported']!r}, where an object is expected")
    values: dict[str, Any] = {name: known.get(f"train.{name}") for name in Hyperparameters.__dataclass_fields__}
    values["shared_draws"] = tuple(known["train.shared_draws"])
    return Hyperparameters(**values) if trained else None


def read_imported(path: Path, origin: ImportedOrigin) -> Ingredient:
    """The ingredient in a file, if it is that one.

    Raises: FileError naming the file and what is wrong with it; ForeignFileError where it is sound, but another.
    """
    found = read(path)
    states.check_shapes(path, found.state, origin.architecture)
    with files.read_file(path, KIND, VERSION) as file:
        _check_origin(path, file, files.get_json(file["provenance"], "origin") | origin.wanted)
    if states.sha256(found.state) != origin.row.state_sha256:
        raise ForeignFileError(f"{path} holds other weights than those that were imported from {origin.row.file}")
    return found


def _read_state(path: Path, file: h5py.File, origin: Origin | None) -> State:
    state = states.get_finite(path, file)
    if origin is not None:
        states.check_shapes(path, state, origin.architecture)
        _check_origin(path, file, origin.values)
    return state


def origin(path: Path) -> dict[str, Any]:
    """The values of an ingredient's origin, as `Origin.values` names them. Raises: FileError."""
    with files.read_file(path, KIND, VERSION) as file:
        return files.get_json(file["provenance"], "origin")


def check_code(path: Path, model: Model) -> None:
    """Raises: ForeignFileError where a module's code is another than an ingredient was trained, or measured, with."""
    was, now = origin(path).get("model.code"), model.record().get("code")
    if was != now:
        raise ForeignFileError(
            f"{path} is of other code of the model ({was}) than there is now ({now}): put it back"
            f"{_advise_code('model.code', was)}"
        )


def _get_accuracy(file: h5py.File, name: str) -> float:
    found, metric = files.get_number(file, name), judged.get_metric(file["metrics"])
    low, high = RANGES.get(metric, (0.0, 1.0))
    if not low <= found <= high:
        known = "an accuracy" if metric == "accuracy" else metric
        raise FileError(f"{file.filename}: {name} is {found}, where {known} from {low:g} to {high:g} is expected")
    return found


def _check_origin(path: Path, file: h5py.File, wanted: Mapping[str, Any]) -> None:
    """Refuse a file of another origin, naming the first thing in which it differs from what is wanted.

    Values are compared, and not the recipe, which is their hash: a file that another program wrote may lack it.
    Raises: ForeignFileError.
    """
    found = files.get_json(file["provenance"], "origin")
    was, says = _DEFAULTS | found, _DEFAULTS | dict(wanted)
    if says["train.engine"] == "auto":
        says["train.engine"] = was["train.engine"]
    # Where a start differs, what the job says of starts tells more than a hash.
    keys = sorted([*wanted, *found], key=lambda key: key in ("initial_sha256", "trunk_sha256", "previous_sha256"))
    key = next((key for key in keys if was.get(key) != says.get(key)), None)
    if key is not None:
        other = {
            "graph_sha256": f"was trained on another graph ({str(found.get(key))[:12]}…) than the run's",
            "initial_sha256": "started from another initial state than the run's",
            "trunk_sha256": "branched from another trunk than the run's",
            "previous_sha256": "went on from other weights than those of the ingredient before it",
        }
        recipe = f"is of another recipe: {key} was {was.get(key)!r}, the job says {says.get(key)!r}"
        raise ForeignFileError(f"{path} {other.get(key, recipe)}{_advise_code(key, was.get(key))}")


def _advise_code(key: str, was: Any) -> str:
    """What to do where the code of a module has changed, and nothing that it computes."""
    return f"; or, if the module computes what it did, set model.revision = {was!r}" if key == "model.code" else ""


def _get_history(file: h5py.File) -> tuple[Epoch, ...]:
    """The training history of a file; empty where it has none."""
    if "history" not in file:
        return ()
    table = file["history"]
    columns = (files.get_column(table, name, len(table["epoch"])).tolist() for name in Epoch.__dataclass_fields__)
    return tuple(Epoch(int(epoch), *figures) for epoch, *figures in zip(*columns, strict=True))


def _content_sha256(made: Ingredient) -> str:
    """Hash of what is a function of the origin alone: weights, losses and accuracies, but no time."""
    arrays = {f"state/{name}": tensor.detach().cpu().numpy() for name, tensor in made.state.items()}
    arrays["epoch"] = files.column_of(made.history, "epoch", int)
    arrays |= {name: files.column_of(made.history, name, float) for name in ("loss", "validation_accuracy")}
    return content_sha256(arrays)


def write_trunk(path: Path, trunk: Trunk, origin: Origin, job: Job, **provenance: object) -> None:
    """Publish the trunk, or the best one so far while more starts are to come."""
    with files.create_file(path, TRUNK, TRUNK_VERSION, "trunk: the state that all ingredients branch from") as file:
        _put_training(file, trunk, origin, job, provenance)
        if origin.hyperparameters.trunk_starts > 1:
            files.put_records(file, "starts", TrunkStart, trunk.starts, "one row a start that the trunk is chosen from")
            file.attrs["chosen"] = trunk.chosen


def read_trunk(path: Path, origin: Origin | None = None) -> Trunk:
    """The trunk in a file; `origin` and errors are as in `read`."""
    with files.read_file(path, TRUNK, TRUNK_VERSION) as file:
        state, history, spent = _read_state(path, file, origin), _get_history(file), files.get_cost(file)
        if "starts" not in file:
            return Trunk(state, history, spent)
        starts, chosen = tuple(files.get_records(file["starts"], TrunkStart)), files.get_integer(file, "chosen")
        if not 0 <= chosen < len(starts):
            raise FileError(f"{path}: its attribute chosen is {chosen}, and it has {len(starts)} starts, from 0")
        return Trunk(state, history, spent, starts=starts, chosen=chosen)


def hash_branch(path: Path, initial: str, origin: Origin | None = None) -> tuple[str, str]:
    """Hashes of the state that the trunk in a file was trained from, and of the trunk.

    initial: of the run's initial state, from which it is but where another start was chosen. Errors as in `read`.
    """
    trunk = read_trunk(path, origin)
    began = trunk.starts[trunk.chosen].initial_sha256 if trunk.starts else initial
    return began, states.sha256(trunk.state)


def write_initial(path: Path, state: State, architecture: Model, job: Job) -> None:
    """Publish the state that all ingredients start from."""
    with files.create_file(path, INITIAL, INITIAL_VERSION, "initial state that all ingredients start from") as file:
        states.put(file, state)
        file.attrs["seed"] = job.train.seed
        file.attrs["architecture"] = canonical(architecture.record())
        files.put_provenance(file, job.to_toml())


def read_initial(path: Path, architecture: Model, seed: int) -> State:
    """The initial state. Raises: FileError where it is damaged; RunError where it is of another model or seed."""
    with files.read_file(path, INITIAL, INITIAL_VERSION) as file:
        state = states.get_finite(path, file)
        made = _as_in_job(files.get_json(file, "architecture"), files.get_integer(file, "seed"))
    wanted = _as_in_job(architecture.record(), seed)
    key = next((key for key in wanted if made.get(key) != wanted[key]), None)
    if key is not None:
        by = ", by task.kind" if key == "model.classes" else ""
        raise RunError(
            f"{path} was made with {key} = {made.get(key)!r}, the job says {wanted[key]!r}{by}: give the job a name of"
            f" its own (--set name=…), or remove {path.parent}{_advise_code(key, made.get(key))}"
        )
    states.check_shapes(path, state, architecture)
    return state


def _as_in_job(architecture: dict[str, Any], seed: int) -> dict[str, Any]:
    return {f"model.{key}": value for key, value in architecture.items()} | {"train.seed": seed}


def write_checkpoint(path: Path, checkpoint: Checkpoint, origin: Origin, job: Job, **provenance: object) -> None:
    """Publish a checkpoint in place of an earlier one. Raises: RunError where it cannot be written."""
    best = checkpoint.best
    kept = (checkpoint.state, checkpoint.mean, checkpoint.square, checkpoint.average, best.state if best else {})
    size = sum(tensor.nbytes for state in kept for tensor in state.values())
    about = "checkpoint: a training between two epochs"
    with files.create_file(path, CHECKPOINT, CHECKPOINT_VERSION, about, size if size > IN_MEMORY_BYTES else 0) as file:
        file.attrs["epoch"] = len(checkpoint.history)
        adam = file.create_group("adam", track_order=True)
        states.put(adam, checkpoint.mean, "mean", "Adam's running mean of gradients")
        states.put(adam, checkpoint.square, "square", "Adam's running mean of their squares")
        steps = np.array(list(checkpoint.steps.values()), dtype=np.float64)
        files.put(adam, "steps", steps, "1", "steps that Adam has taken, a number a parameter")
        about = "state of the generator of dropout masks"
        files.put(file, "generator", checkpoint.generator.numpy(), "1", about).attrs["device"] = checkpoint.device
        if best is not None:
            states.put(file, best.state, "best", "parameter after the best validation epoch so far")
            file["best"].attrs.update(epoch=best.epoch, accuracy=best.accuracy)
        if checkpoint.average:
            states.put(file, checkpoint.average, "average", "average of weights so far")
            file["average"].attrs["count"] = checkpoint.averaged
        _put_training(file, checkpoint, origin, job, provenance)


def read_checkpoint(path: Path, origin: Origin) -> Checkpoint:
    """The checkpoint in a file, if it is of that origin.

    Raises: FileError naming the file and what is wrong with it; ForeignFileError where it is sound, but of another job.
    """
    with files.read_file(path, CHECKPOINT, CHECKPOINT_VERSION) as file:
        state = _read_state(path, file, origin)
        best = None
        if "best" in file:
            about = file["best"].attrs
            best = BestEpoch(int(about["epoch"]), float(about["accuracy"]), states.get(file, "best"))
        average, mean = "average" in file, states.get(file["adam"], "mean")
        return Checkpoint(
            average=states.get(file, "average") if average else {},
            averaged=int(file["average"].attrs["count"]) if average else 0,
            history=_get_history(file),
            state=state,
            steps=dict(zip(mean, file["adam/steps"][:].tolist(), strict=True)),
            mean=mean,
            square=states.get(file["adam"], "square"),
            generator=torch.from_numpy(np.asarray(file["generator"][:])),
            device=str(file["generator"].attrs["device"]),
            best=best,
            measurement=files.get_cost(file),
        )
