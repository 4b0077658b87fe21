"""Decisions of greedy and GIS, worked by hand in a context whose scores are a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from gnnsoup_hpc.config import GisJob
from gnnsoup_hpc.evaluation.tasks import rank_by_score
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.methods import SoupMethod
from gnnsoup_hpc.soup.methods.baselines import BestIngredient
from gnnsoup_hpc.soup.methods.gis import Gis
from gnnsoup_hpc.soup.methods.greedy import Greedy
from gnnsoup_hpc.soup.mixtures import Candidate
from tests.runs import QUIET

Formula = Callable[[list[float]], float]


class FormulaContext:
    """A context of N ingredients in which `formula` of alpha is the score; it remembers what was asked for."""

    def __init__(self, size: int, formula: Formula, ids: Sequence[int] | None = None) -> None:
        self.size = size
        self.ids = tuple(range(size) if ids is None else ids)
        self.asked: list[list[float]] = []
        self.bar = QUIET.bar
        self._formula = formula

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        alphas = [candidate.alpha[0].tolist() for candidate in candidates]
        self.asked += alphas
        return [self._formula(alpha) for alpha in alphas]

    def scores_between(self, start: torch.Tensor, end: torch.Tensor, shares: Sequence[float]) -> list[float]:
        return self.scores([Candidate(share * start + (1.0 - share) * end) for share in shares])

    def metric(self, reached: float) -> float:
        return reached

    def score_each(self) -> list[float]:
        return self.scores([Candidate(row[None]) for row in torch.eye(self.size)])


def run(method: SoupMethod, context: FormulaContext) -> MixingWeights:
    return method.run(context)  # type: ignore[arg-type]


def alpha_of(method: SoupMethod, context: FormulaContext) -> list[float]:
    alpha = run(method, context).alpha
    assert alpha.shape == (1, context.size)
    return [float(share) for share in alpha[0]]


def near(target: list[float]) -> Formula:
    """The closer alpha is to `target`, the higher."""
    return lambda alpha: 1.0 - sum(abs(a - b) for a, b in zip(alpha, target, strict=True)) / 2


def test_the_highest_score_comes_first_and_equals_go_by_their_id() -> None:
    assert rank_by_score([0.5, 0.9, 0.7], [0, 1, 2]) == [1, 2, 0]
    assert rank_by_score([0.7, 0.9, 0.7, 0.9], [4, 3, 2, 1]) == [3, 1, 2, 0]


def test_best_takes_the_lowest_id_among_equals() -> None:
    assert alpha_of(BestIngredient(), FormulaContext(3, lambda alpha: 0.5, ids=[7, 2, 5])) == [0.0, 1.0, 0.0]


def test_greedy_keeps_what_does_no_harm() -> None:
    """0 is best; 2 helps; 1 and 3 would harm."""
    context = FormulaContext(4, near([0.6, 0.0, 0.4, 0.0]))
    assert alpha_of(Greedy(), context) == [0.5, 0.0, 0.5, 0.0]
    thirds = [[1 / 3, 1 / 3, 1 / 3, 0.0], [1 / 3, 0.0, 1 / 3, 1 / 3]]
    assert context.asked[4:] == [[0.5, 0.0, 0.5, 0.0], *(pytest.approx(alpha) for alpha in thirds)]


def test_greedy_keeps_equals() -> None:
    assert alpha_of(Greedy(), FormulaContext(3, lambda alpha: 0.5)) == pytest.approx([1 / 3] * 3)


def test_gis_finds_the_ratio_between_two() -> None:
    context = FormulaContext(2, near([0.75, 0.25]))
    assert alpha_of(Gis(GisJob(granularity=5)), context) == [0.75, 0.25]
    assert [alpha[0] for alpha in context.asked[2:]] == [0.75, 0.5, 0.25]  # 1 and 0 are known


def test_gis_multiplies_its_ratios() -> None:
    """0 and 1 half and half, then both against 2."""
    context = FormulaContext(3, near([0.4, 0.36, 0.24]))
    assert alpha_of(Gis(GisJob(granularity=5)), context) == pytest.approx([0.375, 0.375, 0.25])


def test_gis_keeps_the_soup_among_equals() -> None:
    assert alpha_of(Gis(GisJob(granularity=5)), FormulaContext(3, lambda alpha: 0.5)) == [1.0, 0.0, 0.0]


def test_histories_tell_each_decision() -> None:
    context = FormulaContext(3, near([0.5, 0.5, 0.0]))
    history = run(Gis(GisJob(granularity=3)), context).history
    assert [step.step for step in history] == [1, 2, 3]
    assert [step.accuracy for step in history] == [0.5, 1.0, 1.0]
