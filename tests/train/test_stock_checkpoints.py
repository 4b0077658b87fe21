"""Checkpoints of a plain PyG script, imported, souped by all methods, exported: its figures are the report's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.config import METHOD_NAMES
from gnnsoup_hpc.io import report
from tests.once import make_once

SCRIPT = Path(__file__).with_name("stock_sage.py")
PUBMED = Path(__file__).parents[2] / "gnnsoup_hpc" / "data" / "pubmed.npz"
ALONE = (
    "import runpy, sys; sys.modules['gnnsoup_hpc'] = None; sys.argv = sys.argv[1:];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)
JOB = """\
name = "mine"
[graph]
source = "pt:graph.pt"
split = "stored"
features = "none"
[model]
kind = "sage"
layers = 2
hidden = 16
[machine]
threads = 1
"""


def script(folder: Path, *words: object) -> str:
    """Run the user's script where this package is not."""
    told = [sys.executable, "-c", ALONE, str(SCRIPT), *map(str, words)]
    return subprocess.run(told, cwd=folder, check=True, capture_output=True, text=True).stdout


def make(folder: Path) -> Path:
    folder.mkdir()
    script(folder, "train", PUBMED)
    (folder / "mine.toml").write_text(JOB)
    return folder


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six checkpoints of one start and one of another, souped in the runs mine and other."""
    found = make_once(tmp_path_factory, "stock-checkpoints", make)
    monkeypatch.chdir(found)
    monkeypatch.setattr("sys.excepthook", None)
    return found


def test_all_is_as_the_script_measures_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "mine.toml", "checkpoints/[0-5].pt"]) == 0
    assert main(["soup", "mine.toml"]) == 0
    tables = report.read_tables(folder / "runs" / "mine" / "report.h5")
    measured = json.loads(Path("measured.json").read_text())
    assert dict(zip(tables["ingredients"]["imported"], pairs(tables["ingredients"]), strict=True)) == {
        name: pytest.approx(values, abs=1e-12) for name, values in measured.items() if name != "6.pt"
    }
    assert list(tables["methods"]["method"]) == list(METHOD_NAMES)
    exported = {f"{name}.pt": values for name, values in zip(METHOD_NAMES, pairs(tables["methods"]), strict=True)}
    del exported["ensemble.pt"]  # which is no one model
    for name in exported:
        assert main(["export", "runs/mine", "--method", name.removesuffix(".pt"), "--to", name]) == 0
    found = json.loads(script(folder, "measure", *exported))
    assert found == {name: pytest.approx(values, abs=1e-12) for name, values in exported.items()}
    assert "One basin: all 6 ingredients lie in one basin" in capsys.readouterr().out


def pairs(table: Any) -> list[list[float]]:
    columns = (table[name].tolist() for name in ("validation_accuracy", "test_accuracy"))
    return [list(pair) for pair in zip(*columns, strict=True)]


def test_a_state_of_another_start_is_told_by_the_barrier(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "mine.toml", "checkpoints/*.pt", "--set", "name=other"]) == 0
    assert main(["diagnose", "runs/other"]) == 0
    said = capsys.readouterr().out
    assert "1 of 7 ingredients is not in one basin with the best" in said
    assert ": 0006. The midpoint with 0006 is" in said
    assert "They were imported, so what they started from is not known" in said
