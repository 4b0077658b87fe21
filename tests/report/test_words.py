"""What people read: verdicts, tables, comparisons; and the runs that cannot be reported."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.job import METHOD_NAMES, Job
from gnnsoup_hpc.report.compare import comparison
from gnnsoup_hpc.report.layout import aligned
from gnnsoup_hpc.report.rows import Contents, contents
from gnnsoup_hpc.report.table import spread, table
from gnnsoup_hpc.report.words import verdicts
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.significance import binomial_error
from tests import pantry


@pytest.fixture(scope="module")
def run(served: Job) -> Contents:
    return contents(RunDir.of(served).root)


def judged(run: Contents, best: float, soup: float, nodes: int = 100) -> str:
    """The last verdict where the best ingredient has one test accuracy, and a soup another."""
    ingredients = tuple(replace(i, validation_accuracy=0.5, test_accuracy=best) for i in run.ingredients)
    ls = run.soup("ls")
    assert ls is not None
    return verdicts(replace(run, ingredients=ingredients, soups=(replace(ls, test_accuracy=soup),), test_nodes=nodes))[
        -1
    ]


def test_binomial_error_of_an_accuracy() -> None:
    assert binomial_error(0.5, 100) == 0.05
    assert binomial_error(0.9, 100_000) == pytest.approx(math.sqrt(0.9 * 0.1 / 100_000), rel=1e-3)
    assert binomial_error(1.0, 100) > 0.0


def test_a_difference_within_the_error_is_no_gain(run: Contents) -> None:
    assert (
        judged(run, 0.5, 0.54)
        == "The ls soup is 4.00 points above the best ingredient, a difference within that error."
    )
    assert (
        judged(run, 0.5, 0.46)
        == "The ls soup is 4.00 points below the best ingredient, a difference within that error."
    )
    assert judged(run, 0.5, 0.59).endswith("a difference within that error.")  # of 100 nodes: 10 points
    assert judged(run, 0.5, 0.5) == "The ls soup does exactly as well as the best ingredient."


def test_a_larger_difference_is_said(run: Contents) -> None:
    assert judged(run, 0.5, 0.54, nodes=10_000) == "The ls soup beats the best ingredient by 4.00 points."
    assert judged(run, 0.5, 0.2) == "The ls soup loses to the best ingredient by 30.00 points."


def test_best_is_by_validation_and_not_by_test(run: Contents) -> None:
    first, second, third = run.ingredients
    made = replace(
        run,
        ingredients=(
            replace(first, validation_accuracy=0.5, test_accuracy=0.9),
            replace(second, validation_accuracy=0.6, test_accuracy=0.4),
            replace(third, validation_accuracy=0.6, test_accuracy=0.7),
        ),
    )
    assert verdicts(made)[0].startswith("The best ingredient on validation is 0001, with test accuracy 0.4000;")


def test_one_ingredient_has_nothing_to_mix(run: Contents) -> None:
    said = verdicts(replace(run, ingredients=run.ingredients[:1]))
    assert said == ["There is one ingredient, so there is nothing to mix: every soup is that ingredient."]


def test_what_was_left_out_is_said_first(run: Contents) -> None:
    soups = tuple(replace(soup, left_out=("0003.h5 is damaged",)) for soup in run.soups)
    assert verdicts(replace(run, soups=soups))[0] == "Left out: 0003.h5 is damaged."


def test_every_method_but_the_best_gets_a_verdict(run: Contents) -> None:
    said = verdicts(run)[1:]
    assert len(said) == len(METHOD_NAMES) - 1
    assert said[-1].startswith("The ensemble ")


def test_table_has_a_row_a_method_and_a_phase(run: Contents) -> None:
    lines = [line.split() for line in table(run).splitlines() if line]
    heads = [line[0] for line in lines]
    for name in (*METHOD_NAMES, "prepare", "train", "phase"):
        assert name in heads, name
    pls = lines[heads.index("pls")]
    assert pls[pls.index("unions") - 1] == "6"


def test_columns_are_aligned() -> None:
    assert aligned([("method", "test"), ("ls", "0.5"), ("uniform", "10.25")]) == [
        "method    test",
        "ls         0.5",
        "uniform  10.25",
    ]


def test_spread_is_the_sample_deviation() -> None:
    assert spread([1.0, 2.0, 3.0]) == "2.0000 ± 1.0000"
    assert spread([0.5]) == "0.5000 ± 0.0000"


def test_runs_are_compared_by_the_methods_they_share(served: Job, tmp_path: Path) -> None:
    other = RunDir.of(pantry.copied(served, tmp_path))
    other.soup("uniform").unlink()
    text = comparison([RunDir.of(served).root, other.root])
    heads = [line.split()[0] for line in text.splitlines() if line]
    assert heads[0] == "2"
    assert heads[3:] == [name for name in METHOD_NAMES if name != "uniform"]
    for name in METHOD_NAMES:
        if name != "gis":
            other.soup(name).unlink(missing_ok=True)
    one = RunDir.of(pantry.copied(served, tmp_path / "one"))
    one.soup("gis").unlink()
    with pytest.raises(RunError, match="have no method in common"):
        comparison([one.root, other.root])


@pytest.fixture
def copy(served: Job, tmp_path: Path) -> RunDir:
    return RunDir.of(pantry.copied(served, tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not the folder of a run"):
        contents(tmp_path)


def test_a_run_without_soups_names_the_command(copy: RunDir) -> None:
    shutil.rmtree(copy.soups)
    with pytest.raises(RunError, match="holds no soup yet: run `gnnsoup soup JOB` first"):
        contents(copy.root)


def test_soups_of_different_shelves_are_not_reported_together(copy: RunDir, served: Job) -> None:
    fewer = pantry.changed(served.model_copy(update={"runs": str(copy.root.parent)}), "train.ingredients=2")
    fewer = fewer.model_copy(update={"soup": fewer.soup.model_copy(update={"methods": ("uniform",)})})
    pantry.souped(fewer)
    copy.job.write_text(served.to_toml())
    with pytest.raises(RunError, match=r"(best|uniform).h5 (is made of other|was made with train.ingredients)"):
        contents(copy.root)


def test_ingredients_that_are_not_the_soups_are_not_reported_beside_them(copy: RunDir) -> None:
    """The soups know the hashes of the weights that they are made of."""
    shutil.copy(copy.ingredient(0), copy.ingredient(2))
    with pytest.raises(RunError, match="run `gnnsoup soup JOB`"):
        contents(copy.root)
