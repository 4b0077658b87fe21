"""When training will end."""

from __future__ import annotations

import pytest

from gnnsoup_hpc.analysis.status.estimate import estimate
from gnnsoup_hpc.analysis.status.piece import TaskStatus


def running(epoch: int | None, seconds: float | None, epochs: int = 10) -> TaskStatus:
    return TaskStatus("a", "running", epoch=epoch, epochs=epochs, epoch_seconds=seconds)


WAITING = TaskStatus("w", "waiting", epochs=10)


def test_waiting_ones_go_to_whoever_is_free_first() -> None:
    """One worker is free in 2 s, one in 8 s: three of 20 s each end at 22, 28 and 42 s."""
    pieces = [running(9, 2.0), running(6, 2.0), WAITING, WAITING, WAITING]
    assert estimate(pieces, None).seconds == pytest.approx(42.0)


def test_the_last_one_running_decides_where_nothing_waits() -> None:
    assert estimate([running(9, 2.0), running(1, 3.0)], None).seconds == pytest.approx(27.0)


def test_finished_ones_tell_where_no_epoch_is_done_yet() -> None:
    finished = TaskStatus("f", "finished", epochs=20, seconds=10.0)
    assert estimate([finished, running(None, None), WAITING], None).seconds == pytest.approx(10.0)
    assert estimate([running(None, None), WAITING], None).why == "no epoch is done yet"


def test_silent_and_damaged_ones_are_to_be_done_and_failed_ones_are_not() -> None:
    for state, seconds in (("silent", 22.0), ("damaged", 22.0), ("failed", 2.0)):
        piece = TaskStatus("p", state, epochs=10)  # type: ignore[arg-type]
        assert estimate([running(9, 2.0), piece], None).seconds == pytest.approx(seconds), state


def test_why_it_cannot_be_told() -> None:
    assert "no rank works" in estimate([WAITING], None).why
    assert "trunk" in estimate([WAITING], TaskStatus("trunk", "running")).why
    assert estimate([TaskStatus("f", "finished")], None).why == "all ingredients are there"
