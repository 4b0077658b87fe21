"""Ingredient files: round trip, origins, what they are refused for, the stack of all."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.errors import FileError, RunError
from gnnsoup_hpc.io import ingredient as store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.records import Epoch, Ingredient
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.profiling import QUANTITIES, Measurement
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs
from tests.arbitrary import normal

JOB = Job(name="x", soup={"pls": {"union": 1}})
NET = Architecture("sage", 2, 4, 8, 3, norm="layer")
ORIGIN = Origin("a" * 64, "b" * 64, NET, "full", 0, 2, Hyperparameters(3, 0.01, 0.0, 0.5))


def ingredient(**changes: object) -> Ingredient:
    state = {name: normal(1, *shape, kind=torch.float32) for name, shape in NET.shapes().items()}
    history = tuple(Epoch(number, 1.0 / number, 0.1 * number, 0.5) for number in (1, 2, 3))
    spent = Measurement({name: float(number) for number, name in enumerate(QUANTITIES)})
    base = Ingredient(2, state, history, 3, 0.3, 0.25, ORIGIN.hyperparameters, "all epochs done", spent)
    return replace(base, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store.write(tmp_path / "0002.h5", ingredient(), ORIGIN, JOB, rank=1, device="cpu")
    return tmp_path / "0002.h5"


def test_an_ingredient_comes_back_as_it_went(path: Path) -> None:
    found, wanted = store.read(path, ORIGIN), ingredient()
    assert list(found.state) == list(wanted.state)
    assert all(torch.equal(found.state[name], tensor) for name, tensor in wanted.state.items())
    assert replace(found, state={}) == replace(wanted, state={})


def test_the_file_says_where_it_comes_from(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["index"] == 2
        assert file.attrs["recipe"] == ORIGIN.recipe
        assert file["state"].attrs["sha256"] == states.sha256(ingredient().state)
        assert file["provenance"].attrs["rank"] == 1
        assert file["provenance/job"].asstr()[()] == JOB.to_toml()
        assert {file["state"][name].dtype for name in file["state"]} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (replace(ORIGIN, graph_sha256="c" * 64), "was trained on another graph"),
        (replace(ORIGIN, initial_sha256="c" * 64), "started from another initial state"),
        (replace(ORIGIN, hyperparameters=Hyperparameters(4, 0.01, 0.0, 0.5)), "train.epochs was 3, the job says 4"),
        (replace(ORIGIN, seed=7), "train.seed was 0, the job says 7"),
        (
            replace(ORIGIN, hyperparameters=Hyperparameters(3, 0.01, 0.0, 0.5, drop_edges=0.2)),
            "train.drop_edges was 0.0, the job says 0.2",
        ),
        (
            replace(ORIGIN, hyperparameters=Hyperparameters(3, 0.01, 0.0, 0.5, shared_draws=("edges",))),
            r"train.shared_draws was \[\], the job says \['edges'\]",
        ),
        (replace(ORIGIN, trunk_sha256="c" * 64), "branched from another trunk"),
        (
            replace(ORIGIN, previous_sha256="c" * 64),
            "went on from other weights than those of the ingredient before it",
        ),
        (replace(ORIGIN, index=3), "index was 2, the job says 3"),
        (replace(ORIGIN, architecture=replace(NET, hidden=16)), "does not fit the job's model"),
        (replace(ORIGIN, architecture=replace(NET, kind="gcn")), "does not fit the job's model: "),
        (
            replace(ORIGIN, architecture=replace(NET, norm="none")),
            r"norms.0.weight has shape \(8,\), the model wants none",
        ),
    ],
)
def test_an_ingredient_of_another_origin_is_refused(path: Path, origin: Origin, message: str) -> None:
    with pytest.raises(FileError, match=f"0002.h5.*{message}"):
        store.read(path, origin)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = ingredient().state
    state["convs.1.lin_r.weight"][0, 0] = float("nan")
    store.write(tmp_path / "bad.h5", ingredient(state=state), ORIGIN, JOB)
    with pytest.raises(FileError, match=r"bad.h5 has weights that are not finite, in convs.1.lin_r.weight"):
        store.read(tmp_path / "bad.h5", ORIGIN)


def test_content_hash_leaves_time_out(tmp_path: Path) -> None:
    slow = tuple(replace(epoch, seconds=9.0) for epoch in ingredient().history)
    other = tuple(replace(epoch, loss=9.0) for epoch in ingredient().history)
    hashes = []
    for number, history in enumerate([ingredient().history, slow, other]):
        store.write(tmp_path / f"{number}.h5", ingredient(history=history), ORIGIN, JOB)
        with h5py.File(tmp_path / f"{number}.h5") as file:
            hashes.append(file.attrs["content_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_recipes_are_those_of_their_origins() -> None:
    assert replace(ORIGIN, seed=1).recipe != ORIGIN.recipe
    assert replace(ORIGIN, architecture=replace(NET, hidden=16)).recipe != ORIGIN.recipe
    assert Origin(**vars(ORIGIN)).recipe == ORIGIN.recipe


def test_what_has_its_default_is_in_no_recipe() -> None:
    """Or the recipes of all older files would change with each new field."""
    assert sorted(ORIGIN.values) == sorted(
        [
            *("graph_sha256", "initial_sha256", "index", "train.batch", "train.seed"),
            *("train.epochs", "train.learning_rate", "train.weight_decay", "train.dropout"),
            *(f"model.{name}" for name in vars(NET) if name != "weighted"),
        ]
    )
    assert ORIGIN.recipe == "6fb0c3d4dab6d81c149a9ab93100048d9f3a3f0bfb5d5a9131ea6abca946f140"
    how = replace(ORIGIN.hyperparameters, drop_edges=0.1, shared_draws=("order", "dropout"), trunk_epochs=2)
    more = replace(ORIGIN, hyperparameters=how, trunk_sha256="c" * 64).values
    assert {key: value for key, value in more.items() if key not in ORIGIN.values} == {
        "train.drop_edges": 0.1,
        "train.shared_draws": ["dropout", "order"],
        "train.trunk_epochs": 2,
        "trunk_sha256": "c" * 64,
    }


def test_all_hyperparameters_come_back(tmp_path: Path) -> None:
    how = Hyperparameters(3, 0.01, 0.0, 0.5, 0.2, ("dropout", "edges"), "own", 0)
    how = replace(how, labels="all", bag=0.5, drop_features=0.1)
    of = replace(ORIGIN, hyperparameters=how)
    store.write(tmp_path / "0002.h5", ingredient(hyperparameters=how), of, JOB)
    assert store.read(tmp_path / "0002.h5", of).hyperparameters == how


def test_the_order_of_shared_draws_is_no_other_recipe() -> None:
    one, other = (
        replace(ORIGIN, hyperparameters=replace(ORIGIN.hyperparameters, shared_draws=draws)).recipe
        for draws in (("order", "edges"), ("edges", "order"))
    )
    assert one == other != ORIGIN.recipe


def test_varied_hyperparameters_are_taken_in_turn() -> None:
    job = Job(
        name="x",
        train={
            "epochs": 7,
            "vary": {
                "dropout": [0.1, 0.2, 0.3],
                "learning_rate": [0.5, 0.25],
                "drop_edges": [0.0, 0.3],
                "weight_decay": [0.1],
            },
        },
    )
    found = [store.hyperparameters(job, index) for index in range(4)]
    assert [how.dropout for how in found] == [0.1, 0.2, 0.3, 0.1]
    assert [how.learning_rate for how in found] == [0.5, 0.25, 0.5, 0.25]
    assert [how.drop_edges for how in found] == [0.0, 0.3, 0.0, 0.3]
    assert {how.weight_decay for how in found} == {0.1}
    assert {how.epochs for how in found} == {7}


def test_initial_state_comes_back_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "initial.h5"
    start = NET.init_state(0)
    store.write_initial(path, start, NET, JOB)
    found = store.read_initial(path, NET, 0)
    assert all(torch.equal(found[name], tensor) for name, tensor in start.items())
    with pytest.raises(RunError, match=r"initial.h5 was made with train.seed = 0, the job says 1"):
        store.read_initial(path, NET, 1)
    for key, value in (("hidden", 16), ("kind", "gcn"), ("norm", "none"), ("layers", 3)):
        with pytest.raises(RunError, match=rf"initial.h5 was made with model.{key} = .*, the job says {value!r}"):
            store.read_initial(path, replace(NET, **{key: value}), 0)


def test_the_stack_of_all_ingredients_is_read_from_anywhere(
    trained: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even from a folder where files of the same names lie, and after the run was moved."""
    moved = RunDir.of(runs.copy_run(trained, tmp_path))
    decoy = tmp_path / "decoy" / "ingredients"
    decoy.mkdir(parents=True)
    for index in range(3):
        shutil.copy(moved.ingredient(0), decoy / f"{index:04d}.h5")
    monkeypatch.chdir(decoy.parent)
    with h5py.File(os.path.relpath(moved.gathered)) as file:
        assert file["names"].asstr()[:].tolist() == ["0000", "0001", "0002"]
        for name in file["state"]:
            rows = [store.read(moved.ingredient(index)).state[name].numpy() for index in range(3)]
            assert np.array_equal(file["state"][name][:], np.stack(rows))
