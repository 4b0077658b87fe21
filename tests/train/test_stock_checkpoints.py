"""Checkpoints of a plain PyG script, imported, souped by all methods, exported: its figures are the report's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.config import METHOD_NAMES
from gnnsoup_hpc.io import report
from tests.once import make_once

SCRIPT = Path(__file__).with_name("plain_script.py")
ROOT = Path(__file__).parents[2]
NODES = 4000
PUBMED = ROOT / "gnnsoup_hpc" / "data" / "pubmed.npz"
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
[soup]
methods = ["best", "uniform", "greedy", "gis", "ls", "pls", "ensemble", "distil"]
[soup.gis]
granularity = 3
[soup.distil]
epochs = 3
union = 8
[machine]
threads = 1
[model]
"""
MODELS = {  # checkpoints of one start, and [model]
    "sage": (6, 'kind = "sage"\nlayers = 2\nhidden = 16\n'),
    "gin": (2, 'kind = "gin"\nlayers = 2\nhidden = 16\nnorm = "batch"\narguments = { jk = "cat" }\n'),
    "tuned": (
        4,
        'kind = "module"\nfactory = "tuned_gcn:make"\narguments = { hidden = 16, layers = 2, dropout = 0.3 }\n',
    ),
}
every_model = pytest.mark.parametrize(
    "folder", ["sage", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gin", "tuned"))], indirect=True
)


def script(folder: Path, *words: object) -> str:
    """Run the user's script where this package is not."""
    told = [sys.executable, "-c", ALONE, str(SCRIPT), *map(str, words)]
    return subprocess.run(told, cwd=folder, check=True, capture_output=True, text=True).stdout


def cut_graph(path: Path) -> Path:
    """PubMed's first nodes, in the layout of the bundled file."""
    with np.load(PUBMED) as raw:
        x = sp.csr_matrix((raw["x_data"].astype(np.float32), raw["x_indices"].astype(np.int32), raw["x_indptr"]))
        ends = raw["indices"].astype(np.int64)
        links = sp.csr_matrix((np.ones(len(ends), np.float32), ends, raw["indptr"]))[:NODES, :NODES]
        y = raw["y"][:NODES]
    x = x[:NODES]
    rows = {"x_data": x.data, "x_indices": x.indices, "x_indptr": x.indptr}
    np.savez(path, **rows, indices=links.indices, indptr=links.indptr, y=y)
    return path


def make(folder: Path, name: str) -> Path:
    folder.mkdir()
    shutil.copy(ROOT / "jobs" / "tuned_gcn.py", folder)
    count, model = MODELS[name]
    script(folder, "train", name, count + 1, cut_graph(folder / "pubmed.npz"))
    (folder / "mine.toml").write_text(JOB + model)
    return folder


@pytest.fixture
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Some checkpoints of one start and one of another."""
    name = request.param
    found = make_once(tmp_path_factory, f"stock-checkpoints-{name}", partial(make, name=name))
    monkeypatch.chdir(found)
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setattr("sys.path", list(sys.path))
    return found


@every_model
def test_all_is_as_the_script_measures_it(
    folder: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    name = request.node.callspec.params["folder"]
    count = MODELS[name][0]
    assert main(["import", "mine.toml", f"checkpoints/[0-{count - 1}].pt"]) == 0
    assert main(["soup", "mine.toml", "--verbose"]) == 0
    tables = report.read_tables(folder / "runs" / "mine" / "report.h5")
    measured = json.loads(Path("measured.json").read_text())
    assert dict(zip(tables["ingredients"]["imported"], pairs(tables["ingredients"]), strict=True)) == {
        name: pytest.approx(values, abs=1e-12) for name, values in measured.items() if name != f"{count}.pt"
    }
    assert list(tables["methods"]["method"]) == list(METHOD_NAMES)
    exported = {f"{name}.pt": values for name, values in zip(METHOD_NAMES, pairs(tables["methods"]), strict=True)}
    del exported["ensemble.pt"]  # which is no one model
    for soup in exported:
        assert main(["export", "runs/mine", "--method", soup.removesuffix(".pt"), "--to", soup]) == 0
    found = json.loads(script(folder, "measure", name, *exported))
    assert found == {name: pytest.approx(values, abs=1e-12) for name, values in exported.items()}
    card = json.loads(Path("pls.json").read_text())
    assert card["mixture"]["imported"] == {f"{index:04d}": f"{index}.pt" for index in range(count)}
    assert "\n- Imported, not trained in this run: 0000 from `0.pt`, 0001 from `1.pt`" in Path("pls.md").read_text()
    said = capsys.readouterr().out
    assert f"One basin: all {count} ingredients lie in one basin" in said
    assert ("statistics" in tables) == (name != "sage")


def pairs(table: Any) -> list[list[float]]:
    columns = (table[name].tolist() for name in ("validation_accuracy", "test_accuracy"))
    return [list(pair) for pair in zip(*columns, strict=True)]


@pytest.mark.parametrize("folder", ["sage"], indirect=True)
def test_a_state_of_another_start_is_told_by_the_barrier(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "mine.toml", "checkpoints/*.pt", "--set", "name=other"]) == 0
    assert main(["diagnose", "runs/other"]) == 0
    said = capsys.readouterr().out
    assert "1 of 7 ingredients is not in one basin with the best" in said
    assert ": 0006. The midpoint with 0006 is" in said
    assert "They were imported, so what they started from is not known" in said
