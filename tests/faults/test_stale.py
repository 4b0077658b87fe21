"""What is there already is kept where it is right, made again where it is not, and never mistaken for the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gnnsoup_hpc.config import METHOD_NAMES
from tests.faults import kit
from tests.faults.kit import Workdir, fails, flip, succeeds, truncate, unchanged


def _made(said: str) -> set[str]:
    return {method for method in METHOD_NAMES if f"soup: {method} done" in said}


def _there(said: str) -> set[str]:
    return {method for method in METHOD_NAMES if f"soup: {method} is there already" in said}


def test_a_finished_run_does_nothing_again(workdir: Workdir) -> None:
    before = workdir.digests()
    said = succeeds(workdir.gnnsoup_here("run"))
    assert "3 of 3 ingredients are there already" in said
    assert _there(said) == set(METHOD_NAMES)
    unchanged(before, workdir, but=["ingredients.h5", "report.h5"])


def test_damaged_soups_alone_are_made_again(workdir: Workdir, original: Workdir) -> None:
    truncate(workdir.soup("ls"))
    flip(workdir.soup("gis"), 0.5)
    workdir.soup("pls").unlink()
    workdir.soup("best").write_text("not HDF5 at all\n" * 100)
    before = workdir.digests()
    said = succeeds(workdir.gnnsoup_here("soup"))
    for method in ("ls", "gis", "best"):
        assert any(f"soups/{method}.h5" in line and "made again" in line for line in said.splitlines()), said
    again = {"ls", "gis", "pls", "best"}
    assert (_made(said), _there(said)) == (again, set(METHOD_NAMES) - again)
    for method in METHOD_NAMES:
        alpha, wanted = (kit.dataset(b.soup(method), "mixture/alpha") for b in (workdir, original))
        assert np.allclose(alpha, wanted, atol=1e-6), method
    unchanged(before, workdir, but=[*(f"soups/{method}.h5" for method in again), "report.h5"])


def test_only_the_method_whose_options_changed_is_made_again(workdir: Workdir) -> None:
    before = workdir.digests()
    said = succeeds(workdir.gnnsoup_here("soup", "--set", "soup.pls.epochs=9"))
    assert (_made(said), _there(said)) == ({"pls"}, set(METHOD_NAMES) - {"pls"})
    assert len(kit.dataset(workdir.soup("pls"), "history/step")) == 9
    assert len(kit.dataset(workdir.report, "histories/pls/step")) == 9
    unchanged(before, workdir, but=["soups/pls.h5", "report.h5", "job.toml"])


def test_retrained_ingredients_make_soups_again(workdir: Workdir) -> None:
    """Weights that differ in one bit are another shelf, whatever the files' names."""
    more = ("--set", "train.ingredients=4")
    succeeds(workdir.gnnsoup_here("train", *more))
    assert _made(succeeds(workdir.gnnsoup_here("soup", *more))) == set(METHOD_NAMES)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("train.epochs=13", ("train.epochs was 12", "says 13")),
        ("train.seed=1", ("train.seed", "says 1")),
        ("train.vary.dropout=[0.5, 0.1]", ("train.dropout was 0.5", "says 0.1")),
        ("model.hidden=8", ("hidden", "8")),
        ("model.norm=layer", ("norm",)),
        ("model.kind=gcn", ("kind", "gcn")),
    ],
)
def test_a_changed_recipe_under_the_same_name_is_refused(
    workdir: Workdir, override: str, names: tuple[str, ...]
) -> None:
    before = workdir.digests()
    fails(workdir.gnnsoup_here("train", "--set", override), "runs/tiny", "name=", *names)
    outcome = workdir.gnnsoup_here("soup", "--set", override)
    fails(outcome, "runs/tiny", *names)
    unchanged(before, workdir)


def test_a_refused_job_leaves_the_report_readable(workdir: Workdir) -> None:
    for override in ("train.epochs=13", "graph.split_seed=1", "partition.parts=6"):
        fails(workdir.gnnsoup_here("run", "--set", override), "runs/tiny")
    before = workdir.digests()
    assert kit.digest(workdir.root / "job.toml") == before["job.toml"]
    succeeds(kit.here("report", "runs/tiny", cwd=workdir.folder))


def test_more_ingredients_train_the_new_ones_alone(workdir: Workdir) -> None:
    before = workdir.digests()
    said = succeeds(workdir.gnnsoup_here("train", "--set", "train.ingredients=5"))
    assert "3 of 5 ingredients are there already" in said
    assert [f"ingredient {index:04d} done" in said for index in range(5)] == [False, False, False, True, True]
    unchanged(before, workdir, but=["ingredients.h5", "job.toml"])
    assert kit.dataset(workdir.root / "ingredients.h5", "state/convs.0.lin_l.weight").shape[0] == 5


def test_fewer_ingredients_keep_the_others_files(workdir: Workdir) -> None:
    before = workdir.digests()
    said = succeeds(workdir.gnnsoup_here("run", "--set", "train.ingredients=2"))
    assert _made(said) == set(METHOD_NAMES)
    assert kit.texts(workdir.report, "ingredients/ingredient") == ["0000", "0001"]
    unchanged({name: sha for name, sha in before.items() if name.startswith("ingredients/")}, workdir)


def test_odd_paths(original: Workdir, tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path / 'it\'s an "odd" 100% %d place, \u00fcber')
    runs = "my 'run' \"folder\" %s"
    succeeds(workdir.gnnsoup_here("run", "--set", f"runs={runs}"))
    root = workdir.folder / runs / "tiny"
    succeeds(kit.here("report", root, cwd=workdir.folder))
    assert kit.texts(root / "report.h5", "methods/method") == list(METHOD_NAMES)
    stacked = kit.dataset(root / "ingredients.h5", "state/convs.0.lin_l.weight")
    for index in range(3):
        wanted = kit.dataset(original.ingredient(index), "state/convs.0.lin_l.weight")
        assert np.array_equal(stacked[index], wanted)
