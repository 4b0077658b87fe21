"""Ranks while souping, over a world of threads: the same answers in the same order for any number of ranks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from gnnsoup_hpc.evaluation.evaluator import Predictions
from gnnsoup_hpc.soup.station import Candidate
from gnnsoup_hpc.soup.team import Team, serve
from tests.world import worlds


class Scale:
    """Stands for a station: an accuracy is the first weight of a mixture, and clearing is counted."""

    def __init__(self) -> None:
        self.tasted = self.cleared = 0

    def accuracy(self, taste: Candidate) -> float:
        self.tasted += 1
        return float(taste.alpha[0, 0])

    def fits_shared(self, ranks: int) -> bool:
        return False

    def clear(self, exact: bool = False) -> None:
        self.cleared += 1


@contextmanager
def team_of(size: int) -> Iterator[tuple[Team, list[Scale]]]:
    """A team whose other ranks serve until they are told to leave."""
    ours = worlds(size)
    scales = [Scale() for _ in ours]
    helpers = [threading.Thread(target=serve, args=pair) for pair in zip(ours[1:], scales[1:], strict=True)]
    for helper in helpers:
        helper.start()
    team = Team(ours[0] if size > 1 else None, threads_shared=1)  # type: ignore[arg-type]
    try:
        yield team, scales
    finally:
        team.tell("leave")
        for helper in helpers:
            helper.join()


def tastes(count: int) -> list[Candidate]:
    return [Candidate(torch.tensor([[float(number)]])) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_answers_come_in_the_order_of_the_questions(size: int, count: int) -> None:
    with team_of(size) as (team, scales):
        for _ in range(2):
            assert team.accuracies(scales[0], tastes(count)) == [float(number) for number in range(count)]
    assert team.size == size
    assert sum(scale.tasted for scale in scales) == 2 * count


def test_work_is_shared_evenly() -> None:
    with team_of(3) as (team, scales):
        team.accuracies(scales[0], tastes(8))
    assert [scale.tasted for scale in scales] == [3, 3, 2]


def test_the_others_clear_when_they_are_told() -> None:
    with team_of(3) as (team, scales):
        team.tell("clear")
        team.accuracies(scales[0], tastes(3))
    assert [scale.cleared for scale in scales] == [0, 1, 1]


@pytest.mark.parametrize(("count", "together"), [(1, True), (3, True), (8, True), (20, False), (21, False)])
def test_few_accuracies_are_told_together_and_many_are_divided(
    count: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whoever is given a candidate of its own must read the whole graph first."""
    monkeypatch.setattr(Scale, "fits_shared", lambda *_: True)
    monkeypatch.setattr(Scale, "streams", False, raising=False)
    monkeypatch.setattr(
        Team, "_marked", lambda _, __, all_of, ___: [[Predictions(-1.0, np.ones(0, bool))] for _ in all_of]
    )
    with team_of(2) as (team, scales):
        found = team.accuracies(scales[0], tastes(count))
    assert found == ([-1.0] * count if together else [float(number) for number in range(count)])


def test_all_meet_when_what_they_were_told_is_done() -> None:
    with team_of(3) as (team, scales):
        for _ in range(50):
            team.tell("clear")
        team.meet()
        assert [scale.cleared for scale in scales] == [0, 50, 50]


def test_rank_0_has_its_own_threads_again_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with team_of(2) as (team, scales):
            team.accuracies(scales[0], tastes(4))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
