"""Features as prepared, and the record of what was done to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.preparation import prepared
from gnnsoup_hpc.records import Graph, Role
from tests.arbitrary import SEEDS, graph, random_structure

NODES = 40


def with_features(x: np.ndarray) -> Graph:
    return replace(graph(random_structure(NODES, 80), [Role.VALIDATION] * NODES), x=x.astype(np.float32))


@given(SEEDS, st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_standardised_features_have_mean_0_and_deviation_1(seed: int, middle: float, width: float) -> None:
    raw = with_features(middle + width * np.random.default_rng(seed).normal(size=(NODES, 3)))
    done, record = prepared(raw, "standardise")
    rounding = 1e-6 * (1.0 + abs(middle) / width)
    np.testing.assert_allclose(done.x[:].mean(0, dtype=np.float64), 0.0, atol=rounding)
    np.testing.assert_allclose(done.x[:].std(0, dtype=np.float64), 1.0, atol=rounding)
    assert done.x[:].dtype == np.float32
    assert record.mean.dtype == record.scale.dtype == np.float64
    assert np.array_equal(done.x[:], ((raw.x - record.mean) / record.scale).astype(np.float32))


def test_a_constant_feature_becomes_zero() -> None:
    for value in (0.0, 0.1, -3e7):
        done, record = prepared(with_features(np.full((NODES, 2), value)), "standardise")
        assert (done.x[:] == 0.0).all()
        assert (record.scale == 1.0).all()


def test_rows_are_normalised_and_empty_ones_stay() -> None:
    x = np.random.default_rng(0).random((NODES, 5))
    x[3] = 0.0
    done, record = prepared(with_features(x), "row-normalise")
    np.testing.assert_allclose(np.delete(done.x[:].sum(1), 3), 1.0, rtol=1e-6)
    assert (done.x[:][3] == 0.0).all()
    assert done.x[:].dtype == np.float32
    assert (record.kind, record.mean.shape, record.scale.shape) == ("row-normalise", (0,), (0,))


def test_nothing_is_done_when_nothing_is_asked() -> None:
    raw = with_features(np.random.default_rng(0).normal(size=(NODES, 5)))
    done, record = prepared(raw, "none")
    assert np.array_equal(done.x[:], raw.x)
    assert record.kind == "none"


def test_labels_and_edges_are_left_alone() -> None:
    raw = with_features(np.random.default_rng(0).normal(size=(NODES, 5)))
    before = raw.x.copy()
    for kind in ("standardise", "row-normalise"):
        done, _ = prepared(raw, kind)
        assert done.y is raw.y
        assert done.role is raw.role
        assert done.indices is raw.indices
    assert np.array_equal(raw.x, before)
