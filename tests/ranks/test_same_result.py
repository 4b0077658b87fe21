"""The number of ranks changes no result."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gnnsoup_hpc.config import METHOD_NAMES
from gnnsoup_hpc.config import loading as jobs
from tests import runs
from tests.faults import kit
from tests.faults.kit import Workdir, content, succeeds

pytestmark = pytest.mark.mpi

MODELS = {"sage": {}, "gat": {"kind": "gat", "heads": 2}}
RANKS = {"sage": 5, "gat": 2}  # beside the one that the run was finished with; tests/cluster has 1, 2 and 3


def _accuracies(workdir: Workdir) -> np.ndarray:
    return np.stack([kit.dataset(workdir.report, f"methods/{name}_accuracy") for name in ("validation", "test")])


@pytest.mark.parametrize("model", MODELS)
def test_soups_are_the_same_on_any_number_of_ranks(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, model: str
) -> None:
    alone = kit.make_finished(tmp_path_factory, **MODELS[model])
    workdir = kit.copy_workdir(alone, tmp_path)
    said = succeeds(workdir.gnnsoup("soup", "--again", ranks=RANKS[model]))
    assert f"{RANKS[model]} ranks" in said
    assert all(len(re.findall(f"soup: {method} done", said)) == 1 for method in METHOD_NAMES), said
    for method in METHOD_NAMES:
        found, wanted = (kit.dataset(b.soup(method), "mixture/alpha") for b in (workdir, alone))
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=method)
    assert np.array_equal(_accuracies(workdir), _accuracies(alone))


def test_aligned_soups_are_the_same_on_any_number_of_ranks(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Rank 0 finds the orders of units; the others, which tell accuracies, must permute what they read alike."""
    workdir = kit.copy_workdir(kit.make_finished(tmp_path_factory), tmp_path)
    runs.shuffle_units(jobs.load(str(workdir.folder / kit.JOB), [f"runs={workdir.folder / 'runs'}"]))
    aligned = ("--set", "soup.align=weights", "--set", 'soup.methods=["greedy", "gis"]')
    alphas, orders = [], []
    for give in (workdir.gnnsoup_here, partial(workdir.gnnsoup, ranks=3)):
        said = succeeds(give("soup", "--again", "--verbose", *aligned))
        assert len(re.findall("aligned to .* by weights", said)) == 2, said  # as it is found, and in the table
        alphas.append([kit.dataset(workdir.soup(method), "mixture/alpha") for method in ("greedy", "gis")])
        orders.append(kit.dataset(workdir.soup("gis"), "mixture/alignment/orders/layer 0"))
    np.testing.assert_array_equal(*orders)
    assert (orders[0] != np.arange(16)).any()
    for one, other in zip(*alphas, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_ranks_share_the_training_and_get_the_same_ingredients(original: Workdir, tmp_path: Path, ranks: int) -> None:
    workdir = kit.make_workdir(tmp_path)
    said = succeeds(workdir.gnnsoup("train", ranks=ranks))
    assert Counter(re.findall(r"ingredient (\d+) done", said)) == {"0000": 1, "0001": 1, "0002": 1}
    assert len(re.findall("prepare: reading", said)) == 1
    for index in range(3):
        assert content(workdir.ingredient(index)) == content(original.ingredient(index))
    assert not list((workdir.root / "leases").iterdir()), "leases are left"
    assert kit.dataset(workdir.root / "ingredients.h5", "state/convs.0.lin_l.weight").shape[0] == 3
