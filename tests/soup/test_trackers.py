"""Which alpha is returned, on alphas that say by their value when they came."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gnnsoup_hpc.soup.optim import LastTracker, LowestLossTracker, MeanTracker

NAN = math.nan


def at(value: float) -> Tensor:
    return torch.full((1, 2), value, dtype=torch.float64)


def test_last_is_where_the_last_step_led() -> None:
    tracker = LastTracker(at(0))
    tracker.note_loss(at(1), 0.1)
    assert torch.equal(tracker.alpha, at(0))
    tracker.note_step(at(2))
    assert torch.equal(tracker.alpha, at(2))


def test_best_is_the_first_of_the_lowest_losses_and_never_what_was_not_evaluated() -> None:
    tracker = LowestLossTracker(at(0))
    for value, loss in [(1, 0.5), (2, 0.3), (3, 0.3), (4, 0.4), (5, NAN)]:
        tracker.note_loss(at(value), loss)
        tracker.note_step(at(9))
    assert torch.equal(tracker.alpha, at(2))


def test_held_out_takes_means_of_a_window_and_leaves_out_unions_without_such_nodes() -> None:
    tracker = LowestLossTracker(at(0), window=2)
    for value, held_out in [(1, 0.1), (2, 0.9), (3, 0.3), (4, NAN), (5, 0.2), (6, 0.4)]:
        tracker.note_loss(at(value), held_out)
    assert torch.equal(tracker.alpha, at(5))  # means: 0.5 at 2, 0.6 at 3, 0.25 at 5, 0.3 at 6


def test_held_out_returns_the_last_while_the_window_fills() -> None:
    tracker = LowestLossTracker(at(0), window=5)
    tracker.note_loss(at(1), 0.1)
    tracker.note_loss(at(2), 0.2)
    assert torch.equal(tracker.alpha, at(2))


def test_mean_is_over_all_steps_and_not_where_they_began() -> None:
    tracker = MeanTracker(at(0))
    found = []
    for value in (1, 2, 6):
        tracker.note_step(at(value))
        found.append(float(tracker.alpha[0, 0]))
    assert found == [1.0, 1.5, 3.0]
