"""The generated graphs: of the size, shape and signal that they promise, and the same each time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gnnsoup_hpc.config import SyntheticJob
from gnnsoup_hpc.data.sources.raw import RawGraph
from gnnsoup_hpc.data.sources.synthetic import PRESETS
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import Role
from tests.data.sources.layouts import read

SCALES = {"arxiv": 0.2, "products": 0.02}


def made(name: str, folder: Path, seed: int = 0, scale: float | None = None) -> RawGraph:
    return read(f"synthetic:{name}", folder, synthetic=SyntheticJob(seed=seed, scale=scale or SCALES[name]))


@pytest.fixture(scope="module", params=PRESETS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RawGraph]:
    return request.param, made(request.param, tmp_path_factory.mktemp("synthetic"))


def test_sizes_are_the_real_sets(case: tuple[str, RawGraph]) -> None:
    name, graph = case
    preset, scale = PRESETS[name], SCALES[name]
    assert len(graph.y) == round(preset.nodes * scale)
    assert graph.x.shape == (len(graph.y), preset.features)
    assert len(graph.source) == pytest.approx(preset.edges * scale, rel=0.1)  # small graphs have more duplicates
    assert set(graph.y.tolist()) == set(range(preset.classes))
    split = graph.splits["public"].ids(0)
    assert len(split[Role.TRAIN]) == round(preset.train / preset.nodes * len(graph.y))
    assert len(split[Role.VALIDATION]) == round(preset.validation / preset.nodes * len(graph.y))
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(len(graph.y)))


def test_homophily_is_the_real_sets(case: tuple[str, RawGraph]) -> None:
    name, graph = case
    same = (graph.y[graph.source] == graph.y[graph.destination]).mean()
    assert same == pytest.approx(PRESETS[name].homophily, abs=0.02)


@pytest.mark.parametrize("homophily", [0.3, 0.9])
def test_homophily_is_that_which_is_asked_for(homophily: float, tmp_path: Path) -> None:
    """As far as labels that are noise let it: of 15 % no more than 0.74 is to be had."""
    graph = read("synthetic:arxiv", tmp_path, synthetic=SyntheticJob(scale=0.1, homophily=homophily))
    same = (graph.y[graph.source] == graph.y[graph.destination]).mean()
    assert same == pytest.approx(min(homophily, 0.74), abs=0.02)


def test_edges_are_no_loops_and_rarely_come_twice(case: tuple[str, RawGraph]) -> None:
    _, graph = case
    assert graph.source.dtype == graph.destination.dtype == np.int32
    assert (graph.source != graph.destination).all()
    low, high = np.minimum(graph.source, graph.destination), np.maximum(graph.source, graph.destination)
    assert len(np.unique(low.astype(np.int64) << 32 | high)) > 0.995 * len(low)


def test_degrees_have_a_heavy_tail(case: tuple[str, RawGraph]) -> None:
    _, graph = case
    degree = np.bincount(np.concatenate([graph.source, graph.destination]), minlength=len(graph.y))
    assert degree.min() >= 0
    assert (degree == 0).mean() < 0.01
    assert np.median(degree) < 0.75 * degree.mean()
    assert degree.max() > 8 * degree.mean()


def test_ids_tell_nothing(case: tuple[str, RawGraph]) -> None:
    """Neighbours by id are no neighbours in the graph, and classes are spread over all ids."""
    _, graph = case
    distance = np.abs(graph.source.astype(np.int64) - graph.destination)
    assert np.median(distance) == pytest.approx(len(graph.y) * (1 - math.sqrt(0.5)), rel=0.05)
    halves = [np.bincount(half, minlength=3)[:3] for half in np.array_split(graph.y, 2)]
    assert np.allclose(*halves, rtol=0.2)


def test_features_help_but_the_graph_helps_more(case: tuple[str, RawGraph]) -> None:
    """The nearest class mean, from a node's own features and from its neighbours' mean."""
    _, graph = case
    x, y = graph.x[:], graph.y
    total = x.copy()
    np.add.at(total, graph.source, x[graph.destination])
    np.add.at(total, graph.destination, x[graph.source])
    degree = 1 + np.bincount(np.concatenate([graph.source, graph.destination]), minlength=len(y))
    own, smooth = (nearest(features, y) for features in (x, total / degree[:, None]))
    assert 3 / (y.max() + 1) < own < 0.8
    assert own + 0.05 < smooth < 0.97


def nearest(x: np.ndarray, y: np.ndarray) -> float:
    half = len(y) // 2
    means = np.stack([x[:half][y[:half] == label].mean(0) for label in range(y.max() + 1)])
    distance = (means**2).sum(1) - 2 * x[half:] @ means.T
    return float((distance.argmin(1) == y[half:]).mean())


def test_a_seed_gives_its_graph_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, again, other = made("arxiv", tmp_path / "a"), made("arxiv", tmp_path / "b"), made("arxiv", tmp_path, seed=1)
    for name in ("y", "source", "destination"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
        assert not np.array_equal(getattr(one, name)[:1000], getattr(other, name)[:1000])
    assert np.array_equal(one.x[:], again.x[:])
    assert one.sha256 == again.sha256 != other.sha256
    assert made("arxiv", tmp_path, scale=0.06).sha256 != one.sha256


def test_unknown_presets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such preset; there are: arxiv, products"):
        read("synthetic:reddit", tmp_path)
