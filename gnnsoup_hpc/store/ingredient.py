"""ingredients/NNNN.h5, initial.h5 and ingredients.h5. Format: docs/format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gnnsoup_hpc.errors import FileError, ForeignFileError, RunError
from gnnsoup_hpc.hashing import canonical, content_sha256, fingerprint
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import Epoch, Hyperparameters, Ingredient, State
from gnnsoup_hpc.sampling import resolved
from gnnsoup_hpc.store import cost, files, states
from gnnsoup_hpc.store.graph import GraphFile

KIND, VERSION = "ingredient", 1
INITIAL, INITIAL_VERSION = "initial-state", 1
GATHERED, GATHERED_VERSION = "ingredients", 1

_HISTORY = {
    "epoch": ("1", "epoch, from 1"),
    "loss": ("nat", "mean cross-entropy on training nodes, with dropout"),
    "validation_accuracy": ("1", "accuracy on validation nodes after the epoch"),
    "seconds": ("s", "wall time of the epoch, validation included"),
}


@dataclass(frozen=True)
class Origin:
    """What one ingredient is a function of; equal origins give equal ingredients on the same machine."""

    graph_sha256: str
    initial_sha256: str
    architecture: Architecture
    batch: str
    seed: int
    index: int
    hyperparameters: Hyperparameters
    batches: Mapping[str, Any] = field(default_factory=dict)  # what mini-batches depend on besides

    @classmethod
    def of(cls, job: Job, architecture: Architecture, graph: GraphFile, initial_sha256: str, index: int) -> Origin:
        """The origin of a job's ingredient `index`."""
        how = hyperparameters(job, index)
        batches = _batches(job, graph)
        return cls(graph.sha256, initial_sha256, architecture, job.train.batch, job.train.seed, index, how, batches)

    @property
    def values(self) -> dict[str, Any]:
        """Everything, flat and named as in the job."""
        known = asdict(replace(self, batches={}))
        model = {f"model.{key}": value for key, value in known.pop("architecture").items()}
        trained = {f"train.{key}": value for key, value in known.pop("hyperparameters").items()}
        hashes = {key: known[key] for key in ("graph_sha256", "initial_sha256")}
        named = {"train.batch": self.batch, "train.seed": self.seed, "index": self.index}
        return hashes | model | trained | named | dict(self.batches)

    @property
    def recipe(self) -> str:
        """Hash of everything."""
        return fingerprint(self.values)


def _batches(job: Job, graph: GraphFile) -> dict[str, Any]:
    """What the job's mini-batches are drawn from; nothing more than the graph for full batches."""
    how = job.train
    if how.batch == "full":
        return {}
    parts = {"part_sha256": str(graph.cut["part_sha256"]), "train.clusters": how.clusters}
    if how.batch == "cluster":
        return parts
    drawn = {"train.batch_size": how.batch_size, "train.fanout": list(how.fanout)}
    return parts | drawn | {"train.sampler": resolved(how.sampler)}


def hyperparameters(job: Job, index: int) -> Hyperparameters:
    """What ingredient `index` is trained with: the job's values, or its turn of what the job varies."""
    train = job.train
    base = Hyperparameters(train.epochs, train.learning_rate, train.weight_decay, train.dropout)
    varied = {name: values[index % len(values)] for name, values in dict(train.vary).items() if values}
    return replace(base, **varied)


def write(path: Path, ingredient: Ingredient, origin: Origin, job: Job, **provenance: object) -> None:
    """Publish one ingredient."""
    history = {name: np.array([getattr(epoch, name) for epoch in ingredient.history]) for name in _HISTORY}
    with files.created(path, KIND, VERSION, f"ingredient {ingredient.index}: one trained model") as file:
        file.attrs["index"] = ingredient.index
        file.attrs["recipe"] = origin.recipe
        file.attrs["content_sha256"] = _content(ingredient.state, history)
        states.put(file, ingredient.state)
        files.put_table(
            file, "history", {name: (history[name], *_HISTORY[name]) for name in _HISTORY}, "one row an epoch"
        )
        metrics = file.create_group("metrics", track_order=True)
        files.put(metrics, "best_epoch", ingredient.best_epoch, "1", "epoch whose weights were kept")
        files.put(metrics, "validation_accuracy", ingredient.validation_accuracy, "1", "exact, on validation nodes")
        files.put(metrics, "test_accuracy", ingredient.test_accuracy, "1", "exact, on test nodes")
        metrics.attrs["stopped"] = ingredient.stopped
        cost.put(file, ingredient.measurement)
        files.put_provenance(file, job.to_toml(), **provenance)
        file["provenance"].attrs["origin"] = canonical(origin.values)


def read(path: Path, origin: Origin | None = None) -> Ingredient:
    """The ingredient in a file, if its weights are finite; with `origin`, only if it is of that origin.

    Raises: FileError naming the file and what is wrong with it; ForeignFileError where it is sound, but of another job.
    """
    with files.opened(path, KIND, VERSION) as file, files.reading(path):
        state = states.get(file)
        if states.sha256(state) != file["state"].attrs["sha256"]:
            raise FileError(f"{path} is damaged: its weights do not have the hash that it states")
        states.check_finite(path, state)
        if origin is not None:
            states.check_shapes(path, state, origin.architecture)
            _same_origin(path, file, origin)
        return _ingredient(file, state)


def origin(path: Path) -> dict[str, Any]:
    """The values of an ingredient's origin, as `Origin.values` names them. Raises: FileError."""
    with files.opened(path, KIND, VERSION) as file, files.reading(path):
        return dict(json.loads(file["provenance"].attrs["origin"]))


def _ingredient(file: h5py.File, state: State) -> Ingredient:
    columns = [file["history"][name][:] for name in _HISTORY]
    known = json.loads(file["provenance"].attrs["origin"])
    trained = {name: known[f"train.{name}"] for name in Hyperparameters.__dataclass_fields__}
    return Ingredient(
        index=int(file.attrs["index"]),
        state=state,
        history=tuple(Epoch(int(e), float(a), float(b), float(c)) for e, a, b, c in zip(*columns, strict=True)),
        best_epoch=int(file["metrics/best_epoch"][()]),
        validation_accuracy=float(file["metrics/validation_accuracy"][()]),
        test_accuracy=float(file["metrics/test_accuracy"][()]),
        hyperparameters=Hyperparameters(**trained),
        stopped=str(file["metrics"].attrs["stopped"]),
        measurement=cost.get(file),
    )


def _same_origin(path: Path, file: h5py.File, origin: Origin) -> None:
    if file.attrs["recipe"] == origin.recipe:
        return
    found, wanted = json.loads(file["provenance"].attrs["origin"]), origin.values
    key = next((key for key in wanted if found.get(key) != wanted[key]), "index")
    if key == "graph_sha256":
        raise ForeignFileError(f"{path} was trained on another graph ({found.get(key, '?')[:12]}…) than the run's")
    if key == "initial_sha256":
        raise ForeignFileError(f"{path} started from another initial state than the run's")
    raise ForeignFileError(f"{path} is of another recipe: {key} was {found.get(key)!r}, the job says {wanted[key]!r}")


def _content(state: State, history: dict[str, Any]) -> str:
    """Hash of what is a function of the origin alone: weights, losses and accuracies, but no time."""
    arrays = {f"state/{name}": tensor.detach().cpu().numpy() for name, tensor in state.items()}
    return content_sha256(arrays | {name: history[name] for name in ("epoch", "loss", "validation_accuracy")})


def write_initial(path: Path, state: State, architecture: Architecture, job: Job) -> None:
    """Publish the state that all ingredients start from."""
    with files.created(path, INITIAL, INITIAL_VERSION, "initial state that all ingredients start from") as file:
        states.put(file, state)
        file.attrs["seed"] = job.train.seed
        file.attrs["architecture"] = canonical(asdict(architecture))
        files.put_provenance(file, job.to_toml())


def read_initial(path: Path, architecture: Architecture, seed: int) -> State:
    """The initial state.

    Raises: FileError where it is damaged; RunError where it is of another architecture or seed.
    """
    with files.opened(path, INITIAL, INITIAL_VERSION) as file, files.reading(path):
        state = states.get(file)
        made = _as_in_job(json.loads(file.attrs["architecture"]), int(file.attrs["seed"]))
    wanted = _as_in_job(asdict(architecture), seed)
    key = next((key for key in wanted if made.get(key) != wanted[key]), None)
    if key is not None:
        raise RunError(
            f"{path} was made with {key} = {made.get(key)!r}, the job says {wanted[key]!r}: give the job a name of its"
            f" own (--set name=…), or remove {path.parent}"
        )
    states.check_finite(path, state)
    states.check_shapes(path, state, architecture)
    return state


def _as_in_job(architecture: dict[str, Any], seed: int) -> dict[str, Any]:
    return {f"model.{key}": value for key, value in architecture.items()} | {"train.seed": seed}


def gathered(path: Path) -> list[str]:
    """Names of the ingredients that ingredients.h5 stacks; none where it is missing or damaged."""
    try:
        with files.opened(path, GATHERED, GATHERED_VERSION) as file, files.reading(path):
            return list(file["names"].asstr()[:])
    except FileError:
        return []


def gather(path: Path, sources: Sequence[Path], state: State, job: Job) -> None:
    """Publish ingredients.h5: a virtual dataset (N, …) per parameter over the ingredient files, in their order."""
    with files.created(path, GATHERED, GATHERED_VERSION, "virtual stack of all ingredients") as file:
        group = file.create_group("state", track_order=True)
        for name, tensor in state.items():
            layout = h5py.VirtualLayout((len(sources), *tensor.shape), dtype="f4")
            for row, source in enumerate(sources):
                inside = f"state/{name}"
                layout[row] = h5py.VirtualSource(source.relative_to(path.parent), inside, tuple(tensor.shape))
            stack = group.create_virtual_dataset(name, layout)
            stack.attrs["units"], stack.attrs["long_name"] = "1", "parameter of every ingredient"
        files.put(file, "names", [source.stem for source in sources], "1", "ingredients, in the order of rows")
        files.put_provenance(file, job.to_toml())
