"""Ingredients and initial states that are not right: refused or left out by name, and never mixed in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import METHOD_NAMES
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.records import Ingredient
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.types import State
from tests.faults import kit
from tests.faults.kit import JOB, Workdir, content, fails, flip, succeeds, truncate, unchanged

LEAVE_OUT = ("--set", "soup.unfit=leave out")


def _known(workdir: Workdir, index: int) -> tuple[Ingredient, Origin]:
    """Ingredient `index` and its origin, as training would state it."""
    job = jobs.load(str(workdir.folder / JOB))
    with graph_store.open_graph(workdir.graph, job) as graph:
        architecture = make_model(job.model, graph.features, graph.classes)
        initial = ingredient_store.read_initial(workdir.initial, architecture, job.train.seed)
        of = Origin.of(job, architecture, graph, states.sha256(initial), index)
    return ingredient_store.read(workdir.ingredient(index)), of


def _write(workdir: Workdir, index: int, ingredient: Ingredient, of: Origin) -> None:
    """A sound file, sealed as training would, whatever it holds."""
    ingredient_store.write(workdir.ingredient(index), ingredient, of, jobs.load(str(workdir.folder / JOB)))


def _of_another_graph(workdir: Workdir, index: int) -> None:
    ingredient, of = _known(workdir, index)
    _write(workdir, index, ingredient, replace(of, graph_sha256="0" * 64))


def _of_another_start(workdir: Workdir, index: int) -> None:
    ingredient, of = _known(workdir, index)
    _write(workdir, index, ingredient, replace(of, initial_sha256="0" * 64))


def _of_another_shape(workdir: Workdir, index: int) -> None:
    ingredient, of = _known(workdir, index)
    wider = replace(of.architecture, hidden=2 * of.architecture.hidden)
    _write(workdir, index, replace(ingredient, state=wider.init_state(0)), replace(of, architecture=wider))


def _not_finite(workdir: Workdir, index: int) -> None:
    ingredient, of = _known(workdir, index)
    state: State = {name: tensor.clone() for name, tensor in ingredient.state.items()}
    next(iter(state.values())).view(-1)[3] = torch.nan
    _write(workdir, index, replace(ingredient, state=state), of)


def _of_another_index(workdir: Workdir, index: int) -> None:
    workdir.ingredient(index).write_bytes(workdir.ingredient(0).read_bytes())


def _foreign(workdir: Workdir, index: int) -> None:
    workdir.ingredient(index).write_text("not HDF5 at all\n" * 100)


def _another_kind(workdir: Workdir, index: int) -> None:
    workdir.ingredient(index).write_bytes(workdir.initial.read_bytes())


HURTS: dict[str, tuple[Callable[[Workdir, int], None], str]] = {
    "truncated": (lambda workdir, i: truncate(workdir.ingredient(i), 0.4), "truncated or damaged"),
    "empty": (lambda workdir, i: truncate(workdir.ingredient(i), 0.0), "beginning is damaged"),
    "flipped in its seal": (lambda workdir, i: flip(workdir.ingredient(i), 60 / 26928), "damaged"),
    "flipped in the middle": (lambda workdir, i: flip(workdir.ingredient(i), 0.5), "truncated or damaged"),
    "flipped at its end": (lambda workdir, i: flip(workdir.ingredient(i), 1.0), "truncated or damaged"),
    "foreign": (_foreign, "not a file of gnnsoup_hpc"),
    "another kind": (_another_kind, "initial-state"),
    "another graph": (_of_another_graph, "trained on another graph"),
    "another start": (_of_another_start, "another initial state"),
    "another shape": (_of_another_shape, "shape"),
    "another index": (_of_another_index, "index was 0"),
    "not finite": (_not_finite, "not finite"),
    "missing": (lambda workdir, i: workdir.ingredient(i).unlink(), "not trained yet"),
}
MENDED = (  # by training; what is sound, but of another recipe, is somebody's work
    *("truncated", "empty", "flipped in its seal", "flipped in the middle", "flipped at its end"),
    *("foreign", "another kind", "not finite", "missing"),
)


@pytest.mark.parametrize("name", HURTS)
def test_an_unfit_ingredient_is_refused(workdir: Workdir, name: str) -> None:
    hurt, said = HURTS[name]
    hurt(workdir, 1)
    before = workdir.digests()
    fails(workdir.gnnsoup_here("soup"), "ingredients/0001.h5", said, "soup.unfit=leave out")
    unchanged(before, workdir)


def test_refusal_is_one_line_of_the_command(workdir: Workdir) -> None:
    truncate(workdir.ingredient(1))
    truncate(workdir.ingredient(2))
    before = workdir.digests()
    fails(workdir.gnnsoup("soup"), "ingredients/0001.h5", "truncated or damaged", "1 more", "gnnsoup train")
    unchanged(before, workdir)


def test_unfit_ingredients_are_left_out_and_the_others_souped(workdir: Workdir) -> None:
    total = 2 + len(HURTS)
    more = ("--set", f"train.ingredients={total}")
    succeeds(workdir.gnnsoup_here("train", *more))
    unfit = dict(enumerate(HURTS, start=1))
    for index, name in unfit.items():
        HURTS[name][0](workdir, index)
    before = workdir.digests()
    said = succeeds(workdir.gnnsoup_here("soup", *more, *LEAVE_OUT)).splitlines()
    verdicts = kit.texts(workdir.report, "verdicts")
    for index, name in unfit.items():
        path = f"ingredients/{index:04d}.h5"
        assert any("left out: " in line and path in line and HURTS[name][1] in line for line in said), name
        assert any("Left out: " in line and path in line and HURTS[name][1] in line for line in verdicts), name
    fit = ["0000", f"{total - 1:04d}"]
    assert kit.texts(workdir.report, "ingredients/ingredient") == fit
    for method in METHOD_NAMES:
        assert kit.texts(workdir.soup(method), "mixture/ingredients") == fit, method
    rows = [kit.dataset(workdir.ingredient(int(name)), "state/convs.0.lin_l.weight") for name in fit]
    assert np.allclose(kit.dataset(workdir.soup("uniform"), "state/convs.0.lin_l.weight"), np.mean(rows, 0), atol=1e-6)
    unchanged({name: sha for name, sha in before.items() if name.startswith("ingredients/")}, workdir)


def test_all_unfit_leaves_nothing_to_soup(workdir: Workdir) -> None:
    for index in range(3):
        truncate(workdir.ingredient(index))
    before = workdir.digests()
    fails(workdir.gnnsoup_here("soup", *LEAVE_OUT), "ingredients/0000.h5", "2 more", "gnnsoup train")
    unchanged(before, workdir)


def test_every_flipped_bit_is_found(workdir: Workdir) -> None:
    path = workdir.ingredient(1)
    good = path.read_bytes()
    sealed = [*range(109), *range(512, len(good), 97), len(good) - 1]
    for position in sealed:
        flip(path, position / (len(good) - 1))
        with pytest.raises(FileError, match=r"0001\.h5"):
            ingredient_store.read(path)
        path.write_bytes(good)


@pytest.mark.parametrize("name", MENDED)
def test_training_repairs_what_is_damaged(workdir: Workdir, original: Workdir, name: str) -> None:
    HURTS[name][0](workdir, 1)
    hurt = workdir.ingredient(1).read_bytes() if workdir.ingredient(1).exists() else None
    before = workdir.digests()
    said = workdir.gnnsoup_here("train")
    assert "ingredient 0001 done" in succeeds(said)
    assert "2 of 3 ingredients are there already" in said.stdout
    assert content(workdir.ingredient(1)) == content(original.ingredient(1))
    unchanged(before, workdir, but=["ingredients/0001.h5", "ingredients.h5"])
    if hurt is not None:
        assert (workdir.root / "ingredients" / "0001.h5.damaged").read_bytes() == hurt


@pytest.mark.parametrize("name", [name for name in HURTS if name not in MENDED])
def test_what_a_refusal_says_to_do_helps(workdir: Workdir, name: str) -> None:
    """A sound file of another job is moved away, not removed; then training mends the run as the line says."""
    HURTS[name][0](workdir, 1)
    others = {index: kit.digest(workdir.ingredient(index)) for index in (0, 2)}
    line = fails(workdir.gnnsoup_here("soup"), "ingredients/0001.h5")
    assert "move the file away and run `gnnsoup train JOB`" in line
    fails(workdir.gnnsoup_here("train"), "move runs/tiny/ingredients/0001.h5 away")
    workdir.ingredient(1).rename(workdir.folder / "elsewhere.h5")
    succeeds(workdir.gnnsoup_here("train"))
    succeeds(workdir.gnnsoup_here("soup"))
    assert {index: kit.digest(workdir.ingredient(index)) for index in others} == others


def test_training_does_not_replace_a_sound_file_unasked(workdir: Workdir) -> None:
    _of_another_graph(workdir, 1)
    before = workdir.digests()
    line = fails(workdir.gnnsoup_here("train"), "ingredients/0001.h5", "trained on another graph")
    assert not line.endswith(f"remove {workdir.root.relative_to(workdir.folder) / 'ingredients'}"), (
        "two sound ones are there"
    )
    unchanged(before, workdir)


@pytest.mark.parametrize(
    "hurt",
    [
        pytest.param(lambda path: truncate(path), id="truncated"),
        pytest.param(lambda path: flip(path, 0.7), id="flipped"),
        pytest.param(Path.unlink, id="missing"),
    ],
)
def test_a_damaged_initial_state_is_refused_by_souping_and_mended_by_training(
    workdir: Workdir, original: Workdir, hurt: Callable[[Path], None]
) -> None:
    hurt(workdir.initial)
    damaged, before = workdir.initial.exists(), workdir.digests()
    fails(workdir.gnnsoup_here("soup"), "initial.h5", "gnnsoup train")
    unchanged(before, workdir)
    said = succeeds(workdir.gnnsoup_here("train"))
    assert "3 of 3 ingredients are there already" in said
    assert damaged == ("made again" in said)
    unchanged(before, workdir, but=["initial.h5", "ingredients.h5"])
    name = "state/convs.0.lin_l.weight"
    assert np.array_equal(kit.dataset(workdir.initial, name), kit.dataset(original.initial, name))
    assert "soup: pls is there already" in succeeds(workdir.gnnsoup_here("soup"))


def test_a_damaged_ingredient_where_nothing_can_be_written(workdir: Workdir) -> None:
    truncate(workdir.ingredient(1))
    before = workdir.digests()
    with kit.read_only(workdir.folder / "runs"):
        line = fails(workdir.gnnsoup_here("train"), "0001", "writable")
    assert "graph.h5" not in line
    unchanged(before, workdir)
