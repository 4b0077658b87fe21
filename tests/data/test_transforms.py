"""Features as prepared, and the record of what was done to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.data import transforms
from gnnsoup_hpc.data.transforms import prepare_features
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.types import Role
from gnnsoup_hpc.utils.out_of_core import FileRows, SparseRows
from tests.arbitrary import SEEDS, graph, random_structure

NODES = 40


def with_features(x: Any) -> Graph:
    return replace(graph(random_structure(NODES, 80), [Role.VALIDATION] * NODES), x=x)


@given(SEEDS, st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_standardised_features_have_mean_0_and_deviation_1(seed: int, middle: float, width: float) -> None:
    raw = with_features(middle + width * np.random.default_rng(seed).normal(size=(NODES, 3)))
    done, record = prepare_features(raw, "standardise")
    rounding = 1e-6 + 1e-14 * abs(middle) / width
    np.testing.assert_allclose(done.x[:].mean(0, dtype=np.float64), 0.0, atol=rounding)
    np.testing.assert_allclose(done.x[:].std(0, dtype=np.float64), 1.0, atol=rounding)
    assert done.x[:].dtype == np.float32
    assert record.mean.dtype == record.scale.dtype == np.float64
    assert np.array_equal(done.x[:], ((raw.x - record.mean) / record.scale).astype(np.float32))


def test_a_constant_feature_becomes_zero() -> None:
    for value in (0.0, 0.1, -3e7):
        done, record = prepare_features(with_features(np.full((NODES, 2), value)), "standardise")
        assert (done.x[:] == 0.0).all()
        assert (record.scale == 1.0).all()
        assert done.notes == ("features that are the same for every node, and say nothing: 2 of 2",)
    varied = np.random.default_rng(0).normal(size=(NODES, 2))
    assert prepare_features(with_features(varied), "standardise")[0].notes == ()


def test_rows_are_normalised_and_empty_ones_stay() -> None:
    x = np.random.default_rng(0).random((NODES, 5))
    x[3] = 0.0
    done, record = prepare_features(with_features(x), "row-normalise")
    np.testing.assert_allclose(np.delete(done.x[:].sum(1), 3), 1.0, rtol=1e-6)
    assert (done.x[:][3] == 0.0).all()
    assert done.x[:].dtype == np.float32
    assert (record.kind, record.mean.shape, record.scale.shape) == ("row-normalise", (0,), (0,))


def test_nothing_is_done_when_nothing_is_asked() -> None:
    raw = with_features(np.random.default_rng(0).normal(size=(NODES, 5)))
    done, record = prepare_features(raw, "none")
    assert np.array_equal(done.x[:], raw.x.astype(np.float32))
    assert record.kind == "none"


def test_labels_and_edges_are_left_alone() -> None:
    raw = with_features(np.random.default_rng(0).normal(size=(NODES, 5)))
    before = raw.x.copy()
    for kind in ("standardise", "row-normalise"):
        done, _ = prepare_features(raw, kind)
        assert done.y is raw.y
        assert done.role is raw.role
        assert done.indices is raw.indices
    assert np.array_equal(raw.x, before)


BASE = np.random.default_rng(4).random(NODES)
COLUMNS = {
    "UTM coordinates": 5.8e6 + BASE,
    "seconds since 1970": 1.7e9 + BASE,
    "nanoseconds since 1970": (1_700_000_000_000_000_000 + 1e6 * np.round(1e6 * BASE)).astype(np.int64),
    "tiny shares": 1e-13 * BASE,
    "beyond float32": 1e300 * (BASE - 0.5),
    "the largest": 8e307 * (2 * BASE - 1),
    "below float32": 1e-300 * BASE,
    "subnormal": 1e-308 * BASE,
    "large and near": 1e250 * (1 + 1e-9 * BASE),
    "large ids": (2**63 + (2**60 * BASE).astype(np.uint64)).astype(np.uint64),
    "float16": (BASE + 8).astype(np.float16),
    "big-endian": (5.8e6 + BASE).astype(">f8"),
    "yes or no": BASE < 0.5,
    "longdouble": 1e200 * (1 + BASE.astype(np.longdouble)),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
def test_a_column_of_any_size_keeps_what_it_says(column: np.ndarray, tmp_path: Path) -> None:
    exact = column.astype(np.longdouble)
    wanted = ((exact - exact.mean()) / exact.std()).astype(np.float64)
    x = np.stack([column, column[::-1]], axis=1)
    kept: list[Any] = [x]
    if column.dtype.kind == "f" and column.dtype.isnative and column.dtype.itemsize == 8:
        kept += [SparseRows(sp.csr_matrix(x)), FileRows.create(tmp_path / "x", x.shape, x.dtype)]
        kept[-1][: len(x)] = x
    for rows in kept:
        done, record = prepare_features(with_features(rows), "standardise")
        assert done.x[:].dtype == np.float32
        np.testing.assert_allclose(done.x[:], np.stack([wanted, wanted[::-1]], axis=1), atol=1e-5)
        assert np.array_equal(done.x[np.array([7, 3])], done.x[:][[7, 3]])
        assert np.isfinite(record.mean).all()
        assert (record.scale > 0.0).all()


def test_constant_is_judged_relative_to_the_column() -> None:
    for value in (1e-300, 1e-13, 0.1, 5.8e6, 1e18, 1e300):
        noisy = np.full((NODES, 1), value)
        noisy[::2] = np.nextafter(value, np.inf)
        done, _ = prepare_features(with_features(noisy), "standardise")
        assert (np.abs(done.x[:]) < 1e-12).all(), value
        done, record = prepare_features(with_features(np.full((NODES, 1), value)), "standardise")
        assert (done.x[:] == 0.0).all()
        assert (record.mean[0], record.scale[0]) == (value, 1.0)


def test_rows_of_any_size_are_normalised() -> None:
    x = np.random.default_rng(0).random((NODES, 5)) * np.array([1e-320, 1e-200, 1.0, 1e200, 1e308] * 8)[:, None]
    done, _ = prepare_features(with_features(x), "row-normalise")
    np.testing.assert_allclose(done.x[:].sum(1), 1.0, rtol=1e-3)


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_what_float32_does_not_hold_is_never_infinite(value: float) -> None:
    x = np.ones((NODES, 2))
    x[17, 1] = value
    done, _ = prepare_features(with_features(x), "none")
    for which in (slice(None), slice(10, 20), np.array([3, 17])):
        with pytest.raises(GraphError, match=r"x has a value that float32 does not hold, first at node 17: .*standard"):
            done.x[which]
    assert (done.x[:17] == 1.0).all()
    assert np.isfinite(prepare_features(with_features(x), "standardise")[0].x[:]).all()


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the size of the features is in memory: no more rows are asked for at once than a block has."""

    class Counted(SparseRows):
        def __getitem__(self, which: Any) -> Any:
            assert len(range(*which.indices(NODES))) <= 3
            return super().__getitem__(which)

    x = np.random.default_rng(0).normal(size=(NODES, 4)) + 1e6
    for kind in ("standardise", "row-normalise", "none"):
        whole = prepare_features(with_features(x), kind)[0].x[:]
        with monkeypatch.context() as patch:
            patch.setattr(transforms, "BLOCK_BYTES", 3 * 8 * 4)
            pieces = prepare_features(with_features(Counted(sp.csr_matrix(x))), kind)[0].x[:]
        np.testing.assert_allclose(pieces, whole, rtol=1e-6)
