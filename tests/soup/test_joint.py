"""Souping over ranks, over a world of threads: every method's alphas, and its accuracies, as on one rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import Job, LearnedJob, PartitionLearnedJob
from gnnsoup_hpc.engine import sharding
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.evaluator import Predictions
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.protocol import SoupMethod
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.soup.team import Team, serve
from gnnsoup_hpc.types import Role
from tests import runs
from tests.world import World, on_all_ranks

ROLES = (Role.VALIDATION, Role.TEST)


@pytest.fixture(autouse=True)
def small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the small graph of tests would have one section alone."""
    monkeypatch.setattr(sharding, "SECTION_ROWS", 20)


def assert_same_marks(found: Sequence[Sequence[Predictions]], wanted: Sequence[Sequence[Predictions]]) -> None:
    """Of each mixture, on the nodes of each role."""
    for one, other in zip(found, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.accuracy == b.accuracy
            np.testing.assert_array_equal(a.right, b.right)


def together(size: int, job: Job, task: Any, memory: int = 1 << 30) -> Any:
    """What rank 0 makes of `task(station, team)` while the other ranks serve."""

    def rank(world: World) -> Any:
        with runs.station(job, memory=memory) as station:
            if world.rank:
                serve(world, station)  # type: ignore[arg-type]
                return station.alignment
            team = Team(world if size > 1 else None, threads_shared=1)  # type: ignore[arg-type]
            try:
                return task(station, team)
            finally:
                team.tell("leave")

    return on_all_ranks(size, rank)[0]


def cooked(size: int, job: Job, method: SoupMethod) -> MixingWeights:
    return together(size, job, lambda station, team: method.cook(SoupContext(station, team, 0, runs.QUIET)))


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("name", ["best", "uniform", "greedy", "gis", "ls", "pls", "ensemble"])
def test_alphas_do_not_depend_on_the_number_of_ranks(name: str, size: int, stock: Job) -> None:
    method = make_methods(stock.soup)[name]
    alone, found = cooked(1, stock, method), cooked(size, stock, method)
    np.testing.assert_allclose(found.alpha, alone.alpha, atol=1e-10)
    assert [step.accuracy for step in found.history] == pytest.approx([s.accuracy for s in alone.history], abs=1e-12)


@pytest.mark.parametrize("optimiser", ["adam", "eg", "paper", "lbfgs"])
def test_nor_do_those_of_any_optimiser_or_option(optimiser: str, stock: Job) -> None:
    ways = {"epochs": 8, "optimiser": optimiser, "alpha": "tensor", "regularise": 0.01, "logit_scale": True}
    held = {"holdout": 0.3} if optimiser != "lbfgs" else {}
    methods = make_methods(stock.soup)
    for method in (
        type(methods["ls"])(LearnedJob(**ways, holdout=0.3)),
        type(methods["pls"])(PartitionLearnedJob(**ways, **held, union=4, reuse=2, first_hop="exact")),
    ):
        alone, found = cooked(1, stock, method), cooked(3, stock, method)
        np.testing.assert_allclose(found.alpha, alone.alpha, atol=1e-9)


@pytest.mark.parametrize("size", [2, 4])
def test_accuracies_are_those_of_one_rank_node_by_node(size: int, stock: Job) -> None:
    tastes = [Candidate(row[None]) for row in torch.eye(3, dtype=torch.float64)]
    tastes += [Candidate(torch.full((1, 3), 1 / 3)), Candidate(torch.full((1, 3), 1 / 3), of="predictions")]

    def marked(station: Any, team: Team) -> Any:
        return [team.marks(station, taste, ROLES) for taste in tastes], team.accuracies(station, tastes)

    (alone, accuracies), (found, ours) = together(1, stock, marked), together(size, stock, marked)
    assert ours == accuracies
    assert_same_marks(found, alone)


def test_a_rank_reads_only_the_features_of_its_share(stock: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """One mixture is told by all ranks, and no rank then holds the whole graph."""
    from gnnsoup_hpc.evaluation.evaluator import Evaluator

    held = []
    made = Evaluator.shard

    def shard(self: Evaluator, roles: Any, split: Any) -> Any:
        plan = made(self, roles, split)
        held.append(sum(stop - start for start, stop in plan.lanes(0)))
        return plan

    monkeypatch.setattr(Evaluator, "shard", shard)
    monkeypatch.setattr(Evaluator, "ready", lambda *_: pytest.fail("the whole graph is read"))
    taste = Candidate(torch.full((1, 3), 1 / 3))
    together(4, stock, lambda station, team: team.accuracies(station, [taste]))
    assert len(held) == 4
    assert max(held) < sum(held) / 2


def test_without_room_for_shares_candidates_are_divided(stock: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any memory each rank streams, as one does, and by itself."""
    monkeypatch.setattr(MixtureEvaluator, "accuracy", lambda _, taste: float(taste.alpha[0, 0]))
    tastes = [Candidate(torch.tensor([[number / 10]])) for number in range(5)]

    def told(station: MixtureEvaluator, team: Team) -> list[float]:
        assert not station.fits_shared(team.size)
        return team.accuracies(station, tastes)

    assert together(2, stock, told, memory=1) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("size", [1, 2])
def test_a_course_that_leaves_the_numbers_is_an_error_on_any_number_of_ranks(size: int, stock: Job) -> None:
    lost = LearnedJob(epochs=50, optimiser="paper", weights="free", learning_rate=1000.0)
    with pytest.raises(RunError, match="ls diverged"):
        cooked(size, stock, type(make_methods(stock.soup)["ls"])(lost))
