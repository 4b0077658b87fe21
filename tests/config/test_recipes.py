"""Recipes fill in what a job does not say of [train], and change nothing that it says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from gnnsoup_hpc.config import Job, TrainJob
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.config.grid import expand_grid
from gnnsoup_hpc.config.recipes import RECIPES
from gnnsoup_hpc.config.turns import hyperparameters
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.models.jobs import load_job

every_recipe = pytest.mark.parametrize("name", RECIPES)
SAYS = {
    "shared": (),
    "trunk": ("train.trunk_epochs=30",),
    "own": ("train.start=own",),
    "varied": ("train.vary.learning_rate=[0.005, 0.0025, 0.01]", "train.vary.weight_decay=[0.0, 5e-4]"),
    "dropped": ("train.drop_edges=0.2", "train.drop_features=0.2"),
    "snapshots": ("train.start=snapshots", "train.schedule=cosine"),
    "tournament": ("train.trunk_epochs=15", "train.trunk_starts=4"),
    "bagged": ("train.bag=0.8",),
}


def told(*overrides: str) -> Job:
    return load_job("pubmed", overrides)


@every_recipe
def test_a_recipe_is_its_fields(name: str) -> None:
    found, wanted = told(f"train.recipe={name}"), told(*SAYS[name])
    assert found.train == wanted.train.model_copy(update={"recipe": name})
    assert [hyperparameters(found, index) for index in range(3)] == [
        hyperparameters(wanted, index) for index in range(3)
    ]
    assert jobs.validate(tomllib.loads(found.to_toml()), "again") == found


@every_recipe
def test_what_a_job_names_comes_first(name: str) -> None:
    """Each field by itself, with its default too; others are the recipe's."""
    for said in SAYS[name]:
        field = said.partition("=")[0].removeprefix("train.")
        default = TrainJob().vary if field.startswith("vary.") else TrainJob()
        value = getattr(default, field.removeprefix("vary."))
        text = str(list(value)) if isinstance(value, tuple) else str(value)
        others = [other for other in SAYS[name] if other != said]
        if (name, field) == ("tournament", "trunk_epochs"):  # no trunk, and so none to choose from
            with pytest.raises(JobError, match="trunk_starts = 4 chooses among trunks, and trunk_epochs = 0"):
                told(f"train.recipe={name}", f"train.{field}={text}")
            continue
        found = told(f"train.recipe={name}", f"train.{field}={text}")
        assert found.train == told(*others).train.model_copy(update={"recipe": name})
    assert told(f"train.recipe={name}", "train.vary.epochs=[3]").train.vary.epochs == (3,)


def test_a_recipe_follows_the_jobs_own_values() -> None:
    assert told("train.recipe=trunk", "train.epochs=1").train.trunk_epochs == 1
    varied = told("train.recipe=varied", "train.learning_rate=0.1", "train.weight_decay=0.01").train.vary
    assert (varied.learning_rate, varied.weight_decay) == ((0.1, 0.05, 0.2), (0.01, 0.0))


def test_recipes_are_no_values_of_a_sweep() -> None:
    with pytest.raises(JobError, match=r"sweep\.train\.recipe has no meaning: it is a name for other fields"):
        told('sweep.train.recipe=["own", "shared"]')
    runs = expand_grid(told("train.recipe=trunk", "sweep.train.epochs=[4, 8]"))
    assert [(run.job.train.epochs, run.job.train.trunk_epochs) for run in runs] == [(4, 30), (8, 30)]


def test_docs_say_what_each_recipe_does() -> None:
    text = (Path(__file__).parents[2] / "docs/methods.md").read_text()
    for name, recipe in RECIPES.items():
        assert re.search(rf"^\| {name} \| .*{re.escape(recipe.about)} \|$", text, re.M), name
