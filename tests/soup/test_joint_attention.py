"""GAT souped over ranks, over a world of threads: alphas and accuracies as on one rank, each rank with its share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import Job, PartitionLearnedJob
from gnnsoup_hpc.engine import sharding
from gnnsoup_hpc.evaluation.evaluator import Evaluator
from gnnsoup_hpc.soup.joint import RankPasses
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.soup.team import Team
from gnnsoup_hpc.types import Role
from tests import runs
from tests.soup.test_joint import assert_same_marks, cooked, together

ROLES = (Role.VALIDATION, Role.TEST)


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run with three ingredients of GAT. Tests read it."""
    return runs.stocked(tmp_path_factory.mktemp("attentive"), kind="gat", heads=2, norm="layer")


@pytest.fixture(autouse=True)
def small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the small graph of tests would have one section alone."""
    monkeypatch.setattr(sharding, "SECTION_ROWS", 20)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", ["greedy", "gis", "ls", "pls", "ensemble"])
def test_alphas_do_not_depend_on_the_number_of_ranks(name: str, size: int, attentive: Job) -> None:
    method = make_methods(attentive.soup)[name]
    alone, found = cooked(1, attentive, method), cooked(size, attentive, method)
    np.testing.assert_allclose(found.alpha, alone.alpha, atol=1e-9)
    assert [step.accuracy for step in found.history] == pytest.approx([s.accuracy for s in alone.history], abs=1e-12)


def test_nor_do_those_of_large_unions_and_other_optimisers(attentive: Job) -> None:
    ways = {"epochs": 6, "optimiser": "paper", "alpha": "tensor", "regularise": 0.01, "holdout": 0.3}
    pls = type(make_methods(attentive.soup)["pls"])(PartitionLearnedJob(**ways, union=4, reuse=2))
    np.testing.assert_allclose(cooked(3, attentive, pls).alpha, cooked(1, attentive, pls).alpha, atol=1e-9)


@pytest.mark.parametrize("name", ["ls", "pls"])
def test_every_rank_has_a_share_of_every_step(name: str, attentive: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    forward = RankPasses.forward

    def counted(self: RankPasses, *arguments: object) -> object:
        found = forward(self, *arguments)  # type: ignore[arg-type]
        asked.append(found[0])
        return found

    monkeypatch.setattr(RankPasses, "forward", counted)
    cooked(2, attentive, make_methods(attentive.soup)[name])
    assert sum(start == 0 for start, _ in asked) == sum(start > 0 for start, _ in asked) > 1
    assert all(start < stop for start, stop in asked)


def test_accuracies_are_those_of_one_rank_node_by_node(attentive: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five candidates on four ranks are told one after the other by all; no rank then reads the whole graph."""
    tastes = [Candidate(row[None]) for row in torch.eye(3, dtype=torch.float64)]
    tastes += [Candidate(torch.full((1, 3), 1 / 3)), Candidate(torch.full((1, 3), 1 / 3), of="predictions")]

    def marked(station: MixtureEvaluator, team: Team) -> tuple:
        return [team.marks(station, taste, ROLES) for taste in tastes], team.accuracies(station, tastes)

    alone, accuracies = together(1, attentive, marked)
    monkeypatch.setattr(Evaluator, "ready", lambda *_: pytest.fail("the whole graph is read"))
    found, ours = together(4, attentive, marked)
    assert ours == accuracies
    assert_same_marks(found, alone)


def test_accuracies_on_a_line_are_told_by_all_ranks(attentive: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]])
    shares = [0.0, 0.25, 0.5, 1.0, 0.75]

    def along(station: MixtureEvaluator, team: Team) -> list[float]:
        return team.along(station, start, end, shares)

    alone = together(1, attentive, along)
    monkeypatch.setattr(MixtureEvaluator, "along", lambda *_: pytest.fail("shares are divided"))
    assert together(4, attentive, along) == alone
