"""Progress: lines in a batch log, a bar on a terminal, nothing where it is to be quiet."""

from __future__ import annotations

import io
import sys

import pytest

from gnnsoup_hpc.runtime.progress import Bar, Log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is worth a line."""
    monkeypatch.setattr(Bar, "SECONDS_BETWEEN_LINES", -1.0)


def test_lines_begin_with_the_rank(capsys: pytest.CaptureFixture[str]) -> None:
    Log("[rank 1/2] ").say("train: done")
    assert capsys.readouterr().out == "[rank 1/2] train: done\n"


@pytest.mark.usefixtures("eager")
def test_a_batch_log_has_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Log("[rank 0/2] ").bar(2, "ls")
    bar.advance("loss 0.5")
    bar.advance()
    bar.close()
    out, err = capsys.readouterr()
    assert out == "[rank 0/2] ls: 1/2 loss 0.5\n[rank 0/2] ls: 2/2\n"
    assert err == ""


def test_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Log().bar(1000, "ls")
    for _ in range(1000):
        bar.advance("loss 0.5")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("eager")
def test_a_terminal_has_a_bar_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = Log().bar(3, "gis")
    bar.advance("validation 0.9")
    assert "gis" in terminal.getvalue()
    bar.close()
    assert terminal.getvalue().endswith("\r")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("eager")
def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    log = Log(quiet=True)
    log.say("nothing")
    log.bar(1, "nothing").advance("nothing")
    assert capsys.readouterr().out == ""
    assert terminal.getvalue() == ""
