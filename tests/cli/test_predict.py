"""`gnnsoup predict`: what PyG's module computes of the raw graph, in the source's order; in memory and out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.errors import MemoryLimitError, RunError
from gnnsoup_hpc.evaluation import evaluator
from gnnsoup_hpc.io.model import read_model
from tests.io.test_model import raw_graph, run  # noqa: F401 - the fixture of its runs

some_runs = pytest.mark.parametrize(
    "run", [(), ("model.kind=gin", "model.heads=1", "model.norm=batch", "soup.align=none")], indirect=True
)


@pytest.fixture
def here(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", None)
    return run


@some_runs
@pytest.mark.parametrize("memory", ["enough", "little"])
def test_scores_are_those_of_the_module(
    here: Path, memory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if memory == "little":
        monkeypatch.setattr(evaluator.EvalSettings, "allow", lambda *_: False)
    assert main(["predict", str(here)]) == 0
    assert "of the pls soup, of 300 nodes in the source's order -> mine-pls.npy" in capsys.readouterr().out
    raw, soup = raw_graph(), read_model(here / "soups" / "pls.h5")
    wanted = soup.predict(raw["x"], raw["edge_index"])
    np.testing.assert_allclose(np.load("mine-pls.npy"), wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert main(["predict", str(here), "--method", "ensemble", "--to", "all.npy"]) == 0
    models = [read_model(here / "ingredients" / f"000{index}.h5") for index in range(2)]
    mean = torch.stack([model.predict(raw["x"], raw["edge_index"]).softmax(1) for model in models]).mean(0)
    np.testing.assert_allclose(np.load("all.npy"), mean.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", [()], indirect=True)
def test_what_cannot_be_predicted_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(code: int, *words: str) -> str:
        assert main(["predict", str(here), *words]) == code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--method lsp: the run has no such soup; there are: pls, ensemble" in fails(
        RunError.exit_code, "--method", "lsp"
    )
    assert "--to scores.csv: scores are a file of .npy" in fails(RunError.exit_code, "--to", "scores.csv")
    assert "is too little" in fails(MemoryLimitError.exit_code, "--memory-limit", "10 MiB")
