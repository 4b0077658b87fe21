"""Soup files: round trip, recipes, the way into PyG's classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.graph.graph import Preparation
from gnnsoup_hpc.io import soup as store
from gnnsoup_hpc.io.model import read_model
from gnnsoup_hpc.io.records import MixingWeights, Soup, Step
from gnnsoup_hpc.io.soup import SoupFingerprint
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.profiling import COUNTS, QUANTITIES, Measurement
from tests.arbitrary import normal

JOB = Job(name="x", soup={"pls": {"union": 1}})
NET = Architecture("gat", 2, 4, 8, 3, heads=2)
PREPARATION = Preparation("standardise", np.arange(4, dtype=np.float32), np.ones(4, dtype=np.float32))
RECIPE = SoupFingerprint("ls", {"epochs": 2}, 0, "a" * 64, "b" * 64, {"0000": "c" * 64, "0002": "d" * 64}, 2, 1, "cpu")


def soup(**changes: object) -> Soup:
    mixture = MixingWeights(
        alpha=torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64),
        groups=("layer 0", "layer 1"),
        by="layer",
        history=(Step(1, 0.5, 0.75, 3.0, 0.125), Step(2, 0.25, 1.0, 1.5, 0.125)),
    )
    base = Soup(
        method="ls",
        source="a paper",
        options={"seed": 0, "epochs": 2},
        ingredients=("0000", "0002"),
        ingredients_sha256=RECIPE.ingredients_sha256,
        left_out=("0001.h5 is damaged",),
        mixture=mixture,
        state={name: normal(1, *shape, kind=torch.float32) for name, shape in NET.shapes().items()},
        validation_accuracy=0.5,
        test_accuracy=0.25,
        measurement=Measurement({name: float(number) for number, name in enumerate(QUANTITIES)}),
        counts={name: number for number, name in enumerate(COUNTS)},
    )
    return replace(base, **changes)


def written(folder: Path, **changes: object) -> Path:
    path = folder / "soup.h5"
    store.write(path, soup(**changes), RECIPE, NET, PREPARATION, JOB)
    return path


def test_a_soup_comes_back_as_it_went(tmp_path: Path) -> None:
    found, wanted = store.read(written(tmp_path)), soup()
    assert found.state is not None
    assert wanted.state is not None
    assert all(torch.equal(found.state[name], tensor) for name, tensor in wanted.state.items())
    assert torch.equal(found.mixture.alpha, wanted.mixture.alpha)
    plain = MixingWeights(torch.empty(0), ())
    assert replace(found.mixture, alpha=plain.alpha) == replace(wanted.mixture, alpha=plain.alpha)
    assert replace(found, state=None, mixture=plain) == replace(wanted, state=None, mixture=plain)


def test_an_ensemble_has_no_weights(tmp_path: Path) -> None:
    mixture = MixingWeights(torch.tensor([[0.5, 0.5]], dtype=torch.float64), ("model",), of="predictions")
    path = written(tmp_path, mixture=mixture, state=None)
    found = store.read(path)
    assert found.state is None
    assert found.mixture.of == "predictions"
    assert found.mixture.history == ()
    with pytest.raises(FileError, match=r"soup.h5"):
        read_model(path)


def test_weights_load_into_pyg(tmp_path: Path) -> None:
    found = read_model(written(tmp_path))
    assert found.architecture == NET
    found.architecture.to_module().load_state_dict(found.state, strict=True)


def test_new_features_can_be_prepared_from_the_file_alone(tmp_path: Path) -> None:
    with h5py.File(written(tmp_path)) as file:
        assert file["preparation"].attrs["kind"] == "standardise"
        assert file["preparation/mean"][:].tolist() == [0.0, 1.0, 2.0, 3.0]
        assert file["preparation/scale"][:].tolist() == [1.0] * 4


def test_recipe_depends_on_each_of_its_fields(tmp_path: Path) -> None:
    changes = {
        "method": "pls",
        "options": {"epochs": 3},
        "seed": 1,
        "graph_sha256": "0" * 64,
        "part_sha256": "0" * 64,
        "ingredients": {"0000": "c" * 64},
        "ranks": 3,
        "threads": 2,
        "device": "cuda",
        "left_out": ("0001 is not trained yet",),
        "streamed": True,
    }
    others = {name: replace(RECIPE, **{name: value}) for name, value in changes.items()}
    assert changes.keys() == vars(RECIPE).keys()
    assert len({RECIPE.sha256, *(other.sha256 for other in others.values())}) == 1 + len(others)
    moved = {name for name, other in others.items() if other.ingredients_sha256 != RECIPE.ingredients_sha256}
    assert moved == {"graph_sha256", "part_sha256", "ingredients"}
    assert store.read_fingerprint(written(tmp_path)) == RECIPE.sha256


def test_a_recipe_of_very_many_ingredients_fits(tmp_path: Path) -> None:
    """HDF5's common attributes end at 64 KiB."""
    many = replace(RECIPE, ingredients={f"{index:04d}": "c" * 64 for index in range(2000)})
    path = tmp_path / "many.h5"
    store.write(path, soup(), many, NET, PREPARATION, JOB)
    assert store.read_fingerprint(path) == many.sha256
