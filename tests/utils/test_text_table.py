"""Numbers and tables as text."""

from __future__ import annotations

import math

import pytest

from gnnsoup_hpc.utils.text_table import align_columns, pipe_columns, show_number, show_points, show_ratio

ROWS = [("method", "test"), ("ls", "0.5"), ("uniform", "10.25")]


def test_the_first_column_is_to_the_left_and_others_to_the_right() -> None:
    assert align_columns(ROWS) == ["method    test", "ls         0.5", "uniform  10.25"]


def test_all_columns_may_be_to_the_left() -> None:
    assert align_columns(ROWS, left=None) == ["method   test ", "ls       0.5  ", "uniform  10.25"]


def test_markdown_has_a_rule_below_the_head() -> None:
    lines = pipe_columns(ROWS[0], iter(ROWS[1:]))
    assert lines == ["| method | test |", "| --- | ---: |", "| ls | 0.5 |", "| uniform | 10.25 |"]


@pytest.mark.parametrize(("value", "shown"), [(0.25, "0.2500"), (None, "-"), (math.nan, "-"), (math.inf, "-")])
def test_what_is_not_known_is_a_dash(value: float | None, shown: str) -> None:
    assert show_number(value, ".4f") == shown


@pytest.mark.parametrize(
    ("value", "reference", "shown"), [(1.0, 4.0, "0.250"), (1.0, 0.0, "-"), (math.nan, 4.0, "-"), (1.0, math.nan, "-")]
)
def test_a_ratio_needs_a_positive_reference(value: float, reference: float, shown: str) -> None:
    assert show_ratio(value, reference) == shown


def test_points_are_hundredths() -> None:
    assert show_points(0.01234) == "1.23 points"
