"""Metrics against scikit-learn's, on columns with ties, missing targets and a value that nobody has.

Bootstrap samples against scikit-learn on what each of them drew.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as theirs

from gnnsoup_hpc.data.sources import ogb
from gnnsoup_hpc.evaluation.metrics import DRAWS, METRICS, draw_counts, split_classes, split_columns

sys.modules.setdefault("outdated", None)  # ogb asks PyPI for its newest version otherwise

NODES = 60
SCIKIT: dict[str, Callable[..., float]] = {
    "roc_auc": theirs.roc_auc_score,
    "average_precision": theirs.average_precision_score,
    "f1_macro": theirs.f1_score,
    "f1_micro": theirs.f1_score,
    "mae": theirs.mean_absolute_error,
    "r2": theirs.r2_score,
}
every_metric = pytest.mark.parametrize("name", SCIKIT)


def draw(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets of six columns, (n, 6): ties, missing targets, one column all alike, one without any."""
    rng = np.random.default_rng(seed)
    yes = (rng.random((NODES, 6)) < 0.3).astype(float)
    scores = np.round(rng.normal(size=yes.shape) + yes, 1)
    if name.startswith("f1"):
        scores = (scores > 0.5).astype(float)
    targets = yes if name not in ("mae", "r2") else scores + rng.normal(size=yes.shape)
    targets[rng.random(yes.shape) < 0.1] = np.nan
    targets[:, 4] = 0.0
    targets[:, 5] = np.nan
    return scores, targets


def by_scikit(name: str, scores: np.ndarray, targets: np.ndarray) -> float:
    """The mean over columns that have one; of f1_micro that of all labels as one column."""
    columns = [(w[~np.isnan(w)], s[~np.isnan(w)]) for w, s in zip(targets.T, scores.T, strict=True)]
    if name == "f1_micro":
        columns = [tuple(np.concatenate(each) for each in zip(*columns, strict=True))]
    known = [column for column in columns if len(np.unique(column[0])) > (0 if name == "mae" else 1)]
    return float(np.mean([SCIKIT[name](*column) for column in known])) if known else math.nan


@every_metric
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_mean_over_columns_that_have_one(name: str, seed: int) -> None:
    scores, targets = draw(name, seed)
    found = METRICS[name].compute(split_columns(scores, targets), NODES)
    assert found == pytest.approx(by_scikit(name, scores, targets), rel=1e-12)


@every_metric
def test_bootstrap_samples_are_what_scikit_says_of_what_they_drew(name: str) -> None:
    scores, targets = draw(name)
    found = METRICS[name].of_draws(lambda: split_columns(scores, targets), NODES)
    assert found.shape == (DRAWS,)
    for number in (0, 1, 7, DRAWS - 1):
        chosen = np.repeat(np.arange(NODES), draw_counts(NODES, [number])[:, 0])
        assert len(chosen) == NODES
        assert found[number] == pytest.approx(by_scikit(name, scores[chosen], targets[chosen]), rel=1e-9)


@every_metric
def test_samples_are_the_same_for_all_models_and_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = draw(name)
    whole = METRICS[name].of_draws(lambda: split_columns(scores, targets), NODES)
    monkeypatch.setattr("gnnsoup_hpc.evaluation.metrics._CELLS", 7 * NODES)
    np.testing.assert_allclose(METRICS[name].of_draws(lambda: split_columns(scores, targets), NODES), whole, rtol=1e-12)


@every_metric
def test_where_no_column_has_one_it_is_not_a_number(name: str) -> None:
    scores, targets = draw(name)
    targets[:, :4] = np.where(np.isnan(targets[:, :4]), np.nan, 0.0) if name != "mae" else np.nan
    targets[:, 4] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(METRICS[name].compute(split_columns(scores, targets), NODES))
        assert np.isnan(METRICS[name].of_draws(lambda: split_columns(scores, targets), NODES)).all()


def test_a_rare_positive_is_left_out_of_samples_that_do_not_have_it() -> None:
    targets = np.zeros((NODES, 1))
    targets[3] = 1.0
    found = METRICS["roc_auc"].of_draws(lambda: split_columns(np.arange(NODES)[:, None] / 1.0, targets), NODES)
    without = draw_counts(NODES, range(DRAWS))[3] == 0
    assert without.any()
    assert np.isnan(found).tolist() == without.tolist()


@pytest.mark.parametrize("missing", [False, True])
def test_classes_are_each_taken_against_the_others(missing: bool) -> None:
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 3 if missing else 4, NODES)  # the fourth class nobody has
    chances = rng.random((NODES, 4)).round(2)
    predicted = np.where(rng.random(NODES) < 0.5, targets, rng.integers(0, 4, NODES))
    present = np.unique(targets)
    for name in ("roc_auc", "average_precision"):
        wanted = np.mean([SCIKIT[name](targets == number, chances[:, number]) for number in present])
        assert METRICS[name].compute(split_classes(chances, targets, 4), NODES) == pytest.approx(wanted, rel=1e-12)
    macro = theirs.f1_score(targets, predicted, labels=present, average="macro")
    assert METRICS["f1_macro"].compute(split_classes(predicted, targets, 4), NODES) == pytest.approx(macro, rel=1e-12)
    accuracy = METRICS["f1_micro"].compute(split_classes(predicted, targets, 4), NODES)
    assert accuracy == pytest.approx((predicted == targets).mean(), rel=1e-12)


def test_of_ogbn_proteins_it_is_ogbs_evaluator() -> None:
    rng = np.random.default_rng(2)
    targets = (rng.random((NODES, 112)) < 0.2).astype(np.float32)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    targets[:, 7] = 0.0
    scores = rng.normal(size=targets.shape).astype(np.float32)
    wanted = METRICS["roc_auc"].compute(split_columns(scores, targets), NODES)
    assert ogb.evaluate("ogbn-proteins", scores, targets) == pytest.approx(wanted, rel=1e-12)


def test_the_spread_over_samples_is_the_metrics_standard_error() -> None:
    """Of data that is drawn again and again."""
    rng = np.random.default_rng(3)

    def again() -> tuple[np.ndarray, np.ndarray]:
        yes = (rng.random((400, 1)) < 0.3).astype(float)
        return rng.normal(size=yes.shape) + yes, yes

    values = [METRICS["roc_auc"].compute(split_columns(*again()), 400) for _ in range(300)]
    spreads = []
    for _ in range(10):
        scores, targets = again()
        spreads.append(METRICS["roc_auc"].of_draws(lambda s=scores, t=targets: split_columns(s, t), 400).std())
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.15)
