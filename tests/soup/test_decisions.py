"""Decisions of greedy and GIS, worked by hand over a kitchen whose accuracies are a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch

from gnnsoup_hpc.config import GisJob
from gnnsoup_hpc.soup.methods.best import BestIngredient
from gnnsoup_hpc.soup.methods.gis import Gis
from gnnsoup_hpc.soup.methods.greedy import Greedy
from gnnsoup_hpc.soup.protocol import SoupMethod
from gnnsoup_hpc.soup.ranking import rank_by_accuracy
from gnnsoup_hpc.soup.station import Candidate
from tests.runs import QUIET

Formula = Callable[[list[float]], float]


class FormulaKitchen:
    """A kitchen of N ingredients in which `formula` of alpha is the accuracy; it remembers what was tasted."""

    def __init__(self, ingredients: int, formula: Formula, ids: Sequence[int] | None = None) -> None:
        self.ingredients = ingredients
        self.shelf = SimpleNamespace(ids=tuple(range(ingredients) if ids is None else ids))
        self.tasted: list[list[float]] = []
        self.bar = QUIET.bar
        self._formula = formula

    def accuracies(self, tastes: Sequence[Candidate]) -> list[float]:
        alphas = [taste.alpha[0].tolist() for taste in tastes]
        self.tasted += alphas
        return [self._formula(alpha) for alpha in alphas]

    def along(self, start: torch.Tensor, end: torch.Tensor, shares: Sequence[float]) -> list[float]:
        return self.accuracies([Candidate(share * start + (1.0 - share) * end) for share in shares])

    def each_ingredient(self) -> list[float]:
        return self.accuracies([Candidate(row[None]) for row in torch.eye(self.ingredients)])


def cooked(method: SoupMethod, kitchen: FormulaKitchen) -> list[float]:
    alpha = method.cook(kitchen).alpha  # type: ignore[arg-type]
    assert alpha.shape == (1, kitchen.ingredients)
    return [float(share) for share in alpha[0]]


def near(target: list[float]) -> Formula:
    """The closer alpha is to `target`, the more accurate."""
    return lambda alpha: 1.0 - sum(abs(a - b) for a, b in zip(alpha, target, strict=True)) / 2


def test_the_most_accurate_comes_first_and_equals_go_by_their_number() -> None:
    assert rank_by_accuracy([0.5, 0.9, 0.7], [0, 1, 2]) == [1, 2, 0]
    assert rank_by_accuracy([0.7, 0.9, 0.7, 0.9], [4, 3, 2, 1]) == [3, 1, 2, 0]


def test_best_takes_the_lowest_number_among_equals() -> None:
    assert cooked(BestIngredient(), FormulaKitchen(3, lambda alpha: 0.5, ids=[7, 2, 5])) == [0.0, 1.0, 0.0]


def test_greedy_keeps_what_does_no_harm() -> None:
    """0 is best; 2 helps; 1 and 3 would harm."""
    kitchen = FormulaKitchen(4, near([0.6, 0.0, 0.4, 0.0]))
    assert cooked(Greedy(), kitchen) == [0.5, 0.0, 0.5, 0.0]
    assert kitchen.tasted[4:] == [[0.5, 0.0, 0.5, 0.0], *(pytest.approx(alpha) for alpha in THIRDS)]


THIRDS = [[1 / 3, 1 / 3, 1 / 3, 0.0], [1 / 3, 0.0, 1 / 3, 1 / 3]]


def test_greedy_keeps_equals() -> None:
    assert cooked(Greedy(), FormulaKitchen(3, lambda alpha: 0.5)) == pytest.approx([1 / 3] * 3)


def test_gis_finds_the_ratio_between_two() -> None:
    kitchen = FormulaKitchen(2, near([0.75, 0.25]))
    assert cooked(Gis(GisJob(granularity=5)), kitchen) == [0.75, 0.25]
    assert [alpha[0] for alpha in kitchen.tasted[2:]] == [0.75, 0.5, 0.25]  # 1 and 0 are known


def test_gis_multiplies_its_ratios() -> None:
    """0 and 1 half and half, then both against 2."""
    kitchen = FormulaKitchen(3, near([0.4, 0.36, 0.24]))
    assert cooked(Gis(GisJob(granularity=5)), kitchen) == pytest.approx([0.375, 0.375, 0.25])


def test_gis_keeps_the_soup_among_equals() -> None:
    assert cooked(Gis(GisJob(granularity=5)), FormulaKitchen(3, lambda alpha: 0.5)) == [1.0, 0.0, 0.0]


def test_histories_tell_each_decision() -> None:
    kitchen = FormulaKitchen(3, near([0.5, 0.5, 0.0]))
    history = Gis(GisJob(granularity=3)).cook(kitchen).history  # type: ignore[arg-type]
    assert [step.step for step in history] == [1, 2, 3]
    assert [step.accuracy for step in history] == [0.5, 1.0, 1.0]
