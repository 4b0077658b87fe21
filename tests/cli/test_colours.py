"""The report on a terminal: the answer and the words of the table in colours; the same text as without."""

from __future__ import annotations

import re
import sys

import pytest

from gnnsoup_hpc.cli.colours import print_report

TEXT = """
runs/[bold]a: gcn, better of two

Take the ls soup: test accuracy 0.8, 1.00 ± 0.30 points better than the best ingredient, [red]at
the cost of one model.

model     validation    test          gain          seconds
ls            0.8205  0.8197  +1.67 ± 0.38  better     0.50
pls           0.8164  0.8200  -1.70 ± 0.38  worse      0.37
"""
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if stdout were a terminal of many colours."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_terminal(monkeypatch)
    print_report(TEXT)
    found = capsys.readouterr().out
    assert ESCAPES.sub("", found) == f"{TEXT}\n"
    parts = re.findall(r"\x1b\[([0-9;]+)m([^\x1b]*)\x1b\[0m", found)
    bold = "".join(text for style, text in parts if style == "1")
    assert bold.startswith("Take the ls soup")
    assert bold.endswith("the cost of one model.")
    assert [(style, text) for style, text in parts if style != "1"] == [("32", "better"), ("31", "worse")]


def test_elsewhere_or_where_none_are_wanted_it_is_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    print_report(TEXT)
    assert "\x1b[3" not in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich", None)
    print_report(TEXT)
    assert capsys.readouterr().out == f"{TEXT}\n"
    monkeypatch.undo()
    print_report(TEXT)
    assert capsys.readouterr().out == f"{TEXT}\n"
