"""Which ingredients are fit for souping, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.selection import Selection, select_ingredients
from tests import runs


@pytest.fixture
def job(trained: Job, tmp_path: Path) -> Job:
    return runs.copy_run(trained, tmp_path)


def select(job: Job, *overrides: str) -> Selection:
    job = runs.change_job(job, *overrides)
    with runs.open_mixtures(job) as mixtures:
        return select_ingredients(job, mixtures.model, mixtures.graph, runs.QUIET)


def spoil(job: Job, index: int) -> None:
    """Put a number that is none among the weights of an ingredient."""
    with runs.open_mixtures(job) as mixtures:
        path, initial = RunDir.of(job).ingredient(index), RunDir.of(job).initial
        start = ingredient_store.read_initial(initial, mixtures.model, job.train.seed)
        origin = ingredient_store.Origin.of(job, mixtures.model, mixtures.graph, states.sha256(start), index)
    ingredient = ingredient_store.read(path)
    state = {name: tensor.clone() for name, tensor in ingredient.state.items()}
    state["convs.0.lin_l.bias"][0] = float("inf")
    ingredient_store.write(path, replace(ingredient, state=state), origin, job)


LEAVE = "soup.unfit=leave out"


def test_sound_ingredients_are_fit(job: Job) -> None:
    selection = select(job)
    assert list(selection.fit) == [0, 1, 2]
    assert len(set(selection.fit.values())) == 3
    assert selection.unfit == {}


@pytest.mark.parametrize(
    ("hurt", "reason"),
    [
        (lambda job: RunDir.of(job).ingredient(1).unlink(), "0001.h5 is not trained yet"),
        (lambda job: RunDir.of(job).ingredient(1).write_bytes(b"short"), "0001.h5 is not a file of gnnsoup_hpc"),
        (lambda job: spoil(job, 1), "0001.h5 has weights that are not finite, in convs.0.lin_l.bias"),
    ],
    ids=["missing", "damaged", "infinite"],
)
def test_an_unfit_ingredient_is_refused_or_left_out(job: Job, hurt: object, reason: str) -> None:
    assert callable(hurt)
    hurt(job)
    with pytest.raises(RunError, match=f"{reason}.*gnnsoup train JOB.*leave out"):
        select(job)
    selection = select(job, LEAVE)
    assert list(selection.fit) == [0, 2]
    assert list(selection.unfit) == [1]
    assert reason in selection.unfit[1]


def test_ingredients_are_left_out_by_their_numbers(job: Job) -> None:
    RunDir.of(job).ingredient(1).unlink()
    selection = select(job, "soup.leave_out=[1]")  # whether it is fit or not
    assert list(selection.fit) == [0, 2]
    assert selection.unfit == {1: "0001.h5 (soup.leave_out)"}
    with pytest.raises(RunError, match=r"^soup.leave_out names ingredient 3, and there are 3, numbered from 0$"):
        select(job, "soup.leave_out=[1, 3]")
    with pytest.raises(RunError, match=r"soup.leave_out names all ingredients: leave one in"):
        select(job, "soup.leave_out=[2, 1, 0]")


def test_ingredients_of_another_recipe_are_unfit(job: Job) -> None:
    with pytest.raises(
        RunError, match=r"0000.h5 is of another recipe: train.epochs was 12, the job says 13 \(and 2 more"
    ):
        select(job, "train.epochs=13", LEAVE)  # none is left


def test_nothing_to_soup_names_the_command(job: Job) -> None:
    for index in range(3):
        RunDir.of(job).ingredient(index).unlink()
    with pytest.raises(
        RunError, match="holds no ingredient of this job: run `gnnsoup train JOB` first, or `gnnsoup import"
    ):
        select(job)
