"""An exported soup predicts as the run says, by its script alone, where this package is not."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import export
from gnnsoup_hpc.io.model import read_model
from tests.io.test_model import raw_graph, reported, run  # noqa: F401 - the fixture of its runs

ALONE = (
    "import runpy, sys; sys.modules['gnnsoup_hpc'] = None; sys.argv = sys.argv[1:];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)
FILES = (".json", ".md", ".pt", ".py")
ROWS = ("model.kind=gcn", "model.heads=1", "graph.features=row-normalise", "graph.self_loops=add")
RAW = ("model.kind=sage", "model.heads=1", "graph.features=none", "graph.undirected=false", "graph.reverse=true")
GIN = ("model.kind=gin", "model.heads=1", "model.norm=batch", "model.takes=sparse")
some_runs = pytest.mark.parametrize(
    ("run", "saved"), [((), False), (ROWS, True), (RAW, False), (GIN, True)], indirect=["run"]
)
one_run = pytest.mark.parametrize("run", [()], indirect=True)


@pytest.fixture
def here(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:  # noqa: F811
    """The run, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", None)
    return run


def predict_alone(script: Path, **graph: Any) -> subprocess.CompletedProcess[str]:
    np.savez("graph.npz", **graph)
    return predict_file(script, Path("graph.npz"))


def predict_file(script: Path, graph: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", ALONE, str(script), str(graph), "scores.npy"]
    return subprocess.run(words, check=False, capture_output=True, text=True)


@some_runs
def test_the_script_has_the_accuracy_of_the_report(here: Path, saved: bool, tmp_path: Path) -> None:
    """Of graphs in a file of NumPy, and in one of torch.save."""
    assert main(["export", str(here), "--method", "pls"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"mine-pls{suffix}" for suffix in FILES]
    card = json.loads((tmp_path / "mine-pls.json").read_text())
    raw, soup = raw_graph(), read_model(here / "soups" / "pls.h5")
    wanted = soup.predict(raw["x"], raw["edge_index"])
    graph = {"x": raw["x"], "edge_index": raw["edge_index"]}
    if saved:
        torch.save(Data(**{name: torch.from_numpy(array) for name, array in graph.items()}), "graph.pt")
        done = predict_file(tmp_path / "mine-pls.py", Path("graph.pt"))
    else:
        done = predict_alone(tmp_path / "mine-pls.py", **graph)
    assert (done.returncode, done.stderr) == (0, "")
    scores = np.load("scores.npy")
    np.testing.assert_array_equal(scores, wanted.numpy())
    right = (scores.argmax(1) == raw["y"])[raw["test_idx"]].mean()
    assert right == pytest.approx(card["metrics"]["test_accuracy"], abs=1e-12)
    assert right == pytest.approx(reported(here, "pls"), abs=1e-12)
    weights = (tmp_path / card["weights"]["file"]).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == card["weights"]["sha256"]
    assert f"Test accuracy {right:.4f}" in (tmp_path / "mine-pls.md").read_text()
    assert "imported" not in card["mixture"]
    assert len(card["mixture"]["alpha"][0]) == len(card["mixture"]["ingredients"]) == 2


@one_run
def test_the_same_command_completes_an_export(here: Path, tmp_path: Path) -> None:
    assert main(["export", str(here), "--to", "soup.pt"]) == 0
    whole = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    (tmp_path / "soup.json").unlink()
    (tmp_path / "soup.pt").unlink()
    assert main(["export", str(here), "--to", "soup.pt"]) == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {
        path: bytes_ for path, (bytes_, _) in whole.items()
    }
    script = tmp_path / "soup.py"
    assert script.stat().st_mtime_ns == whole[script][1]


@one_run
def test_safetensors_hold_the_same(here: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert main(["export", str(here), "--to", "soup.safetensors"]) == 0
    found, state = load_file(tmp_path / "soup.safetensors"), read_model(here / "soups" / "pls.h5").state
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@one_run
def test_what_cannot_be_exported_is_one_line(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*words: str) -> str:
        assert main(["export", str(here), *words]) == RunError.exit_code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--method ensemble: it is not one model; there are: pls" in fails("--method", "ensemble")
    assert "--method lsp: the run has no such soup" in fails("--method", "lsp")
    assert "a file of .pt or .safetensors" in fails("--to", "soup.h5")
    assert "there is no folder" in fails("--to", "new/soup.pt")
    assert not (tmp_path / "new").exists()
    other = tmp_path / "other"
    shutil.copytree(here, other)
    (other / "soups" / "pls.h5").unlink()
    assert main(["export", str(other)]) == RunError.exit_code
    assert "holds no soup that is one model" in capsys.readouterr().err
    shutil.rmtree(other)
    (tmp_path / "soup.md").write_text("mine")
    assert "soup.md is there already, and another" in fails("--to", "soup.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["soup.md"]
    monkeypatch.setattr(export, "import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError))
    assert "pip install safetensors" in fails("--to", "other.safetensors")


@one_run
def test_a_graph_that_does_not_fit_is_one_line(here: Path, tmp_path: Path) -> None:
    assert main(["export", str(here), "--to", "soup.pt"]) == 0
    raw = raw_graph()
    done = predict_alone(tmp_path / "soup.py", x=raw["x"][:, :2], edge_index=raw["edge_index"])
    assert done.returncode == 1
    assert done.stderr.startswith("features have shape")
    read_saved_graphs(tmp_path / "soup.py", raw)


def read_saved_graphs(path: Path, raw: dict[str, Any]) -> None:
    """What else the script reads, and what it refuses."""
    load_graph = runpy.run_path(str(path))["load_graph"]
    x, edge_index = torch.from_numpy(raw["x"]), torch.from_numpy(raw["edge_index"])
    torch.save({"x": x.to_sparse(), "edge_index": edge_index, "other": None}, "dict.pt")
    torch.save(({"x": x, "edge_index": edge_index}, None, Data), "dataset.pt")
    for name in ("dict.pt", "dataset.pt"):
        found = load_graph(Path(name))
        assert {*found} == {"x", "edge_index"}
        np.testing.assert_array_equal(found["x"], raw["x"])
        np.testing.assert_array_equal(found["edge_index"], raw["edge_index"])
    torch.save({"x": x}, "lacks.pt")
    torch.save([x], "list.pt")
    torch.save({"x": x, "edge_index": Path("code")}, "code.pt")
    Path("broken.npz").write_bytes(b"PK\x03\x04")
    refused = {
        "lacks.pt": "has no edge_index; it has: x",
        "list.pt": "holds a list; give a file of .npz",
        "code.pt": r"no graph that can be read \(UnpicklingError\)",
        "broken.npz": r"no graph that can be read \(BadZipFile\)",
        "absent.pt": r"no graph that can be read \(FileNotFoundError\)",
    }
    for name, message in refused.items():
        with pytest.raises(SystemExit, match=message):
            load_graph(Path(name))
