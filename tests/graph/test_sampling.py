"""Neighbour sampling: what every sample is, that it is uniform, and that PyG's loader gives the same."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput

from gnnsoup_hpc.data.sampling import draw_compiled_samples
from gnnsoup_hpc.engine.compiled.kernels.neighbours import sample_neighbours
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.graph import sampling
from gnnsoup_hpc.graph.sampling import Sample, Sampler, draw_distinct, draw_pyg_samples, draw_samples, per_hop
from tests.arbitrary import SEEDS, Structure, random_structure, structures

FANOUTS = st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=3)
NEGLIGIBLE = 1e-4  # p-value below which a seeded test calls a sampler biased


def edges(sample: Sample) -> set[tuple[int, int]]:
    """(destination, source) by the graph's ids."""
    row = np.repeat(np.arange(len(sample.nodes)), np.diff(sample.indptr))
    return set(zip(sample.nodes[row].tolist(), sample.nodes[sample.indices].tolist(), strict=True))


class Ours(BaseSampler):
    """Our sampler in the place of PyG's, so that PyG's loader runs where no sampler of its own is installed."""

    def __init__(self, csr: tuple[np.ndarray, np.ndarray], fanouts: list[int]) -> None:
        self._sampler, self._fanouts = Sampler(*csr), fanouts

    def sample_from_nodes(self, index: NodeSamplerInput, **kwargs: Any) -> SamplerOutput:
        generator = np.random.default_rng(int(torch.randint(2**31, ())))
        found = self._sampler.sample(index.node.numpy(), self._fanouts, generator)
        row = np.repeat(np.arange(len(found.nodes)), np.diff(found.indptr))
        return SamplerOutput(
            node=torch.from_numpy(found.nodes),
            row=torch.from_numpy(found.indices),
            col=torch.from_numpy(row),
            edge=None,
            batch=None,
            metadata=(index.input_id, index.time),
        )

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> SamplerOutput:
        raise AssertionError("samples are of nodes")

    @property
    def edge_permutation(self) -> None:
        return None


def by_compiled(
    shape: Structure, nodes: np.ndarray, size: int, fanout: list[int], layers: int, seed: int
) -> list[Sample]:
    x = np.random.default_rng(0).normal(size=(shape.nodes, 3)).astype(np.float32)
    found = list(draw_compiled_samples(shape.csr, x, nodes, size, fanout, layers, np.random.default_rng(seed)))
    assert all(np.array_equal(features, x[sample.nodes]) for sample, features in found)
    return [sample for sample, _ in found]


def by_pyg(shape: Structure, nodes: np.ndarray, size: int, fanout: list[int], layers: int, seed: int) -> list[Sample]:
    inner = None if sampling.has_pyg_sampler() else Ours(shape.csr, per_hop(fanout, layers))
    return list(draw_pyg_samples(shape.csr, nodes, size, fanout, layers, np.random.default_rng(seed), inner))


@pytest.mark.parametrize("kind", ["compiled", "own", "pyg"])
@given(structures(), FANOUTS, st.integers(1, 3), SEEDS)
def test_every_sample(kind: str, shape: Structure, fanout: list[int], layers: int, seed: int) -> None:
    nodes = np.arange(0, shape.nodes, 2)
    if kind == "compiled":
        found = by_compiled(shape, nodes, 3, fanout, layers, seed)
    elif kind == "own":
        found = list(draw_samples(shape.csr, nodes, 3, fanout, layers, np.random.default_rng(seed)))
    else:
        found = by_pyg(shape, nodes, 3, fanout, layers, seed)
    neighbours = {node: {source for row, source in shape.entries if row == node} for node in range(shape.nodes)}
    assert sorted(np.concatenate([sample.nodes[: sample.seeds] for sample in found]).tolist()) == nodes.tolist()
    for sample in found:
        assert sample.seeds <= 3
        assert len(set(sample.nodes.tolist())) == len(sample.nodes)
        assert edges(sample) <= set(shape.entries)
        assert len(edges(sample)) == len(sample.indices) == sample.indptr[-1]
        for row in range(len(sample.nodes)):
            own = sample.indices[sample.indptr[row] : sample.indptr[row + 1]]
            assert (np.diff(own) > 0).all()
        _check_hops(sample, neighbours, per_hop(fanout, layers))


def _check_hops(sample: Sample, neighbours: dict[int, set[int]], fanouts: list[int]) -> None:
    """Each newly reached node has min(fanout, degree) in-neighbours; those of the last hop have none."""
    drawn = {node: {source for row, source in edges(sample) if row == node} for node in sample.nodes.tolist()}
    seen, new = set(), set(sample.nodes[: sample.seeds].tolist())
    for fanout in fanouts:
        for node in new:
            degree = len(neighbours[node])
            assert len(drawn[node]) == (degree if fanout < 0 else min(fanout, degree))
        seen |= new
        new = {source for node in new for source in drawn[node]} - seen
    assert seen | new == set(sample.nodes.tolist())
    assert not any(drawn[node] for node in new)


def p_of_subsets(draw: Any, degree: int, count: int, times: int) -> float:
    """p-value of the chi-square test that all subsets are equally likely."""
    found = Counter(draw() for _ in range(times))
    subsets = [frozenset(subset) for subset in combinations(range(degree), count)]
    assert set(found) <= set(subsets)
    return float(stats.chisquare([found[subset] for subset in subsets]).pvalue)


@pytest.mark.parametrize(("degree", "count"), [(5, 1), (5, 2), (6, 3), (7, 5)])
def test_numbers_are_drawn_uniformly(degree: int, count: int) -> None:
    rows = iter(draw_distinct(np.full(20_000, degree), count, np.random.default_rng(1)).tolist())
    assert p_of_subsets(lambda: frozenset(next(rows)), degree, count, 20_000) > NEGLIGIBLE


def test_a_biased_sampler_would_be_found() -> None:
    rng = np.random.default_rng(1)
    weights = np.array([1.0, 1.0, 1.0, 1.0, 1.2]) / 5.2
    biased = lambda: frozenset(rng.choice(5, 2, replace=False, p=weights).tolist())  # noqa: E731
    assert p_of_subsets(biased, 5, 2, 20_000) < NEGLIGIBLE


STAR = (np.array([0, 6, 6, 6, 6, 6, 6, 6]), np.arange(1, 7))


def test_own_samples_are_uniform() -> None:
    rng, sampler = np.random.default_rng(3), Sampler(*STAR)

    def draw() -> frozenset[int]:
        sample = sampler.sample(np.array([0]), [3], rng)
        return frozenset((sample.nodes[sample.indices] - 1).tolist())

    assert p_of_subsets(draw, 6, 3, 4000) > NEGLIGIBLE


def test_compiled_samples_are_uniform() -> None:
    indptr, indices = STAR
    local, keys = np.full(7, -1, dtype=np.int32), iter(np.random.default_rng(3).integers(2**63, size=4000))

    def draw() -> frozenset[int]:
        key = np.uint64(next(keys))
        nodes, _, entries = sample_neighbours(indptr, indices, np.array([0]), np.array([3]), key, local)
        return frozenset((nodes[entries] - 1).tolist())

    assert p_of_subsets(draw, 6, 3, 4000) > NEGLIGIBLE
    assert (local == -1).all()


def test_a_seed_gives_compiled_samples_again_and_another_seed_others() -> None:
    shape = random_structure(80, 600)
    one, same, other = (by_compiled(shape, np.arange(80), 8, [3, 2], 3, seed) for seed in (7, 7, 8))
    for a, b in zip(one, same, strict=True):
        assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("nodes", "indptr", "indices"))
    assert not all(np.array_equal(a.nodes, b.nodes) for a, b in zip(one, other, strict=True))


@pytest.mark.skipif(not sampling.has_pyg_sampler(), reason="neither pyg-lib nor torch-sparse is installed")
def test_pygs_samples_are_uniform() -> None:
    found = iter(
        frozenset((sample.nodes[sample.indices] - 1).tolist())
        for seed in range(4000)
        for sample in draw_pyg_samples(STAR, np.array([0]), 1, [3], 1, np.random.default_rng(seed))
    )
    assert p_of_subsets(lambda: next(found), 6, 3, 4000) > NEGLIGIBLE


def test_the_mean_over_samples_is_the_mean_over_neighbours() -> None:
    rng = np.random.default_rng(5)
    values, sampler = rng.normal(size=7), Sampler(*STAR)
    means = []
    for _ in range(3000):
        sample = sampler.sample(np.array([0]), [2], rng)
        means.append(values[sample.nodes[sample.indices]].mean())
    error = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - values[1:].mean()) < 4 * error


def test_a_generator_gives_its_samples_again() -> None:
    shape = Structure(40, tuple(sorted({(a, b) for a in range(40) for b in range(0, 40, 1 + a % 5)})))
    for draw in (draw_samples, lambda *a: by_pyg(shape, a[1], a[2], a[3], a[4], 7)):
        one, other, third = (
            list(draw(shape.csr, np.arange(40), 8, [3], 2, np.random.default_rng(seed))) for seed in (7, 7, 8)
        )
        assert all(np.array_equal(a.nodes, b.nodes) for a, b in zip(one, other, strict=True))
        if draw is draw_samples:
            assert not all(np.array_equal(a.nodes, b.nodes) for a, b in zip(one, third, strict=True))


def test_pygs_loader_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    by_pyg(Structure(3, ((0, 1), (1, 2))), np.arange(3), 1, [1], 1, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_hub_costs_no_more_than_what_is_drawn() -> None:
    hub = (np.concatenate([[0], np.full(200_001, 200_000)]), np.arange(1, 200_001))
    sampler = Sampler(*hub)
    tracemalloc.start()
    sample = sampler.sample(np.array([0]), [10], np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sample.indices) == 10
    assert peak < 100_000


def test_pygs_sampler_is_refused_where_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "has_pyg_sampler", lambda: False)
    assert (sampling.resolve_sampler("auto"), sampling.resolve_sampler("own")) == ("compiled", "own")
    with pytest.raises(JobError, match=r"train.sampler = 'pyg', but neither"):
        sampling.resolve_sampler("pyg")
    monkeypatch.setattr(sampling, "has_pyg_sampler", lambda: True)
    assert (sampling.resolve_sampler("auto"), sampling.resolve_sampler("own"), sampling.resolve_sampler("pyg")) == (
        "compiled",
        "own",
        "pyg",
    )
