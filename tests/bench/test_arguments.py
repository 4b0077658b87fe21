"""The arguments of `gnnsoup bench`: which cells they choose, and what they refuse."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.bench import arguments, grid
from gnnsoup_hpc.cli.commands import add_arguments
from gnnsoup_hpc.errors import RunError
from tests import runs


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser, "bench")
    return parser.parse_args(words)


def titles(*words: str) -> list[str]:
    cells = grid.list_cells("g", Path("g.h5"), arguments.read_options(parsed(*words)))
    return [f"{cell.model} {cell.title}" for cell in cells]


def test_a_few_cells_of_a_large_graph() -> None:
    words = ["--tasks", "pls_step", "evaluation", "--models", "sage", "--unions", "1", "4", "8", "--tasks", "pls_step"]
    assert titles(*words[:-2]) == ["sage pls_step R=1", "sage pls_step R=4", "sage pls_step R=8", "sage evaluation"]
    assert titles(*words) == ["sage pls_step R=1", "sage pls_step R=4", "sage pls_step R=8"]


def test_full_has_all_sizes_of_a_union_and_a_choice_goes_before() -> None:
    one = ["--models", "gcn", "--tasks", "pls_step"]
    assert titles("--full", *one) == [f"gcn pls_step R={union}" for union in arguments.UNIONS]
    assert titles("--full", "--unions", "2", "2", *one) == ["gcn pls_step R=2"]


def test_precision_reaches_the_cell_beside_the_other() -> None:
    words = ["--precision", "float32", "bfloat16", "--models", "sage", "--tasks", "evaluation"]
    assert titles(*words) == ["sage evaluation", "sage evaluation bfloat16"]


def test_hidden_channels_are_those_of_a_head() -> None:
    options = arguments.read_options(parsed("--hidden", "32", "--tasks", "evaluation"))
    widths = {cell.model: (cell.hidden, cell.heads) for cell in grid.list_cells("g", Path("g.h5"), options)}
    assert widths == {"sage": (32, 1), "gcn": (32, 1), "gat": (64, 2)}


@pytest.mark.parametrize("ways", [("stock",), ("ours",), ("ours", "stock")])
def test_only_the_ways_that_are_asked_for_are_carried_out(ways: tuple[str, ...]) -> None:
    options = arguments.read_options(parsed("--ways", *ways, "--models", "sage", "--tasks", "evaluation"))
    (cell,) = grid.list_cells("g", Path("g.h5"), options)
    ordered = list(grid.list_orders(cell, options))
    assert {order.way for order in ordered} == set(ways)
    assert len(ordered) == len(ways) * (options.rounds + 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "soup.seed=3"], r"--set can be used with --quality only: give --quality RUN, or leave it out"),
        (["--seeds", "3"], r"--seeds can be used with --quality only: give --quality RUN, or leave it out"),
        (["--methods", "pls", "--judge-every", "2"], r"--methods, --judge-every can be .* leave them out"),
        (["--sample-evaluations", "0"], "--sample-evaluations"),
        (["--quality", "pubmed", "--unions", "4", "--full"], r"--full, --unions cannot be used with --quality"),
        (["--tasks", "evaluation", "--unions", "4"], "--unions is for pls_step"),
        (["--threads", "99999"], r"--threads 99999 is more than the \d+ cores"),
    ],
)
def test_what_would_have_no_effect_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        arguments.check(parsed(*words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "gis,best"], "unknown: best; known: gis, ls, pls"),
        (["--unions", "0"], "0 is less than 1"),
        (["--unions", "-3"], "-3 is less than 1"),
        (["--sample-evaluations", "-1"], "less than 0"),
        (["--models", "gin"], "invalid choice"),
    ],
)
def test_bad_values_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "not/there/bench.json"])
def test_where_no_result_can_be_put_nothing_is_measured(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_excepthook: None
) -> None:
    assert main(["bench", "--output", str(tmp_path / place)]) == RunError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert ("is a folder" in line) == (not place)
    assert not (tmp_path / "not").exists()


def test_more_parts_than_there_are_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_excepthook: None
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(runs.prepare_run(tmp_path).to_toml(), encoding="utf-8")
    assert main(["bench", "--graph", str(job), "--unions", "4", "9"]) == RunError.exit_code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "--unions 9" in line
    assert "8 parts" in line
