"""trunk.h5: the state that all ingredients branch from. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.io import files, states
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.records import Trunk
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.utils import rng
from gnnsoup_hpc.utils.hashing import canonical, fingerprint

KIND, VERSION = "trunk", 1


@dataclass(frozen=True)
class TrunkOrigin:
    """What a trunk is a function of: what an ingredient is, but that it has no number and nothing varies."""

    ingredient: Origin

    @classmethod
    def of(cls, job: Job, architecture: Model, graph: GraphFile, initial_sha256: str) -> TrunkOrigin:
        """The origin of a job's trunk."""
        origin = Origin.of(job, architecture, graph, initial_sha256, rng.TRUNK)
        train = job.train
        how = Hyperparameters(
            train.trunk_epochs, train.learning_rate, train.weight_decay, train.dropout, train.drop_edges
        )
        return cls(replace(origin, hyperparameters=how))

    @property
    def hyperparameters(self) -> Hyperparameters:
        """What it is trained with."""
        return self.ingredient.hyperparameters

    @property
    def values(self) -> Mapping[str, Any]:
        """Everything, flat and named as in the job."""
        values = dict(self.ingredient.values)
        del values["index"]
        return values | {"train.trunk_epochs": values.pop("train.epochs")}

    @property
    def recipe(self) -> str:
        """Hash of everything."""
        return fingerprint(self.values)


def write(path: Path, trunk: Trunk, origin: TrunkOrigin, job: Job, **provenance: object) -> None:
    """Publish the trunk."""
    with files.create_file(path, KIND, VERSION, "trunk: the state that all ingredients branch from") as file:
        file.attrs["recipe"] = origin.recipe
        states.put(file, trunk.state)
        ingredient_store.put_history(file, trunk.history)
        files.put_cost(file, trunk.measurement)
        files.put_provenance(file, job.to_toml(), **provenance)
        file["provenance"].attrs["origin"] = canonical(origin.values)


def read(path: Path, origin: TrunkOrigin | None = None) -> Trunk:
    """The trunk in a file, if its weights are finite; with `origin`, only if it is of that origin.

    Raises: FileError naming the file and what is wrong with it; ForeignFileError where it is sound, but of another job.
    """
    with files.read_file(path, KIND, VERSION) as file:
        state = states.get_finite(path, file)
        if origin is not None:
            states.check_shapes(path, state, origin.ingredient.architecture)
            ingredient_store.check_origin(path, file, origin.values)
        return Trunk(state, ingredient_store.get_history(file), files.get_cost(file))
