"""Commands given too early, or on the wrong folder, name the command to give first."""

from __future__ import annotations

import numpy as np

from gnnsoup_hpc.config import METHOD_NAMES
from tests.faults import kit
from tests.faults.kit import Workdir, fails, succeeds, unchanged


def test_souping_before_preparing(empty: Workdir) -> None:
    fails(empty.gnnsoup("soup"), "runs/tiny/graph.h5", "does not exist yet", "gnnsoup")
    assert not empty.root.exists()


def test_souping_before_training(empty: Workdir) -> None:
    succeeds(empty.gnnsoup_here("prepare"))
    before = empty.digests()
    fails(empty.gnnsoup_here("soup"), "runs/tiny/ingredients", "gnnsoup train")
    unchanged(before, empty)


def test_some_ingredients_only(workdir: Workdir) -> None:
    more = ("--set", "train.ingredients=5")
    before = workdir.digests()
    fails(workdir.gnnsoup_here("soup", *more), "ingredients/0003.h5 is not trained yet", "1 more", "gnnsoup train")
    unchanged(before, workdir)
    said = succeeds(workdir.gnnsoup_here("soup", *more, "--set", "soup.unfit=leave out"))
    assert "left out: runs/tiny/ingredients/0003.h5 is not trained yet" in said
    assert kit.texts(workdir.soup("ls"), "mixture/ingredients") == ["0000", "0001", "0002"]


def test_a_report_of_what_is_no_run(empty: Workdir) -> None:
    for folder in (".", "nowhere"):
        fails(kit.here("report", folder, cwd=empty.folder), folder, "not the folder of a run", "gnnsoup run")


def test_a_report_before_the_soups(empty: Workdir) -> None:
    succeeds(empty.gnnsoup_here("train"))
    fails(kit.here("report", "runs/tiny", cwd=empty.folder), "runs/tiny holds no soup yet", "gnnsoup soup")
    assert not empty.report.exists()


def test_a_report_of_a_run_with_a_damaged_soup(workdir: Workdir) -> None:
    kit.truncate(workdir.soup("gis"))
    before = workdir.digests()
    fails(kit.here("report", "runs/tiny", cwd=workdir.folder), "soups/gis.h5", "damaged", "gnnsoup soup")
    unchanged(before, workdir)


def test_one_ingredient_is_said_to_be_nothing_to_mix(empty: Workdir) -> None:
    said = succeeds(empty.gnnsoup_here("run", "--set", "train.ingredients=1"))
    assert "nothing to mix" in said
    assert any("nothing to mix" in line for line in kit.texts(empty.report, "verdicts"))
    name = "state/convs.0.lin_l.weight"
    for method in METHOD_NAMES:
        assert (kit.dataset(empty.soup(method), "mixture/alpha") == 1.0).all(), method
        if method != "ensemble":
            mixed = kit.dataset(empty.soup(method), name)
            assert np.array_equal(mixed, kit.dataset(empty.ingredient(0), name)), method
    tests = kit.dataset(empty.report, "methods/test_accuracy")
    assert (tests == kit.dataset(empty.report, "ingredients/test_accuracy")[0]).all()
