"""`gnnsoup predict`: what PyG's module computes of the raw graph, in the source's order; in memory and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.errors import GraphError, JobError, MemoryLimitError, RunError, SoupError
from gnnsoup_hpc.evaluation import evaluator
from gnnsoup_hpc.io.model import read_model
from tests.io.test_model import raw_graph, run  # noqa: F401 - the fixture of its runs

PNA = ("model.kind=pna", "model.heads=1", "model.norm=batch", "soup.align=none")
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


def other_graph(nodes: int = 170) -> dict[str, Any]:
    """No labels; features of other moments than those that the models were trained on; loops, and edges twice."""
    rng = np.random.default_rng(5)
    x = 3.0 + 2.0 * rng.normal(size=(nodes, raw_graph()["x"].shape[1])) * raw_graph()["x"].std(0)
    edges = rng.integers(0, nodes, (2, 5 * nodes))
    return {"x": x, "edge_index": np.concatenate([edges, edges[:, :40], np.tile(np.arange(9), (2, 1))], axis=1)}


@pytest.mark.parametrize(
    "run",
    [
        (),
        (*PNA, "graph.features=row-normalise", "graph.undirected=false", "graph.reverse=true", "graph.self_loops=add"),
        ("model.kind=sage", "model.heads=1", "task.kind=regression", "task.metric=r2"),
    ],
    ids=["plain", "pna, rows, reversed, loops added", "regression"],
    indirect=True,
)
@pytest.mark.parametrize("memory", ["enough", "little"])
def test_scores_of_another_graph_are_those_of_the_module(
    here: Path, memory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With labels that mean nothing here, and a split that cannot be read, or without any."""
    if memory == "little":
        monkeypatch.setattr(evaluator.EvalSettings, "allow", lambda *_: False)
    raw, before = other_graph(), sorted(here.rglob("*"))
    np.savez("bare.npz", **raw)
    np.savez("named.npz", **raw, y=np.array(["a"] * 170), train_mask=np.arange(170), val_idx=np.array([999]))
    torch.save({name: torch.from_numpy(array) for name, array in raw.items()} | {"y": torch.ones(4)}, "odd.pt")
    wanted = read_model(here / "soups" / "pls.h5").predict(raw["x"], raw["edge_index"]).numpy()
    for source in ("npz:bare.npz", "npz:named.npz", "pt:odd.pt"):
        assert main(["predict", str(here), "--method", "pls", "--graph", source]) == 0
        to = f"mine-pls-{Path(source[source.index(':') + 1 :]).stem}.npy"
        assert f"of the pls soup, of 170 nodes in the source's order -> {to}" in capsys.readouterr().out
        np.testing.assert_allclose(np.load(to), wanted, rtol=1e-3, atol=1e-3)
    assert main(["predict", str(here), "--method", "ensemble", "--graph", "npz:bare.npz", "--to", "all.npy"]) == 0
    models = [read_model(here / "ingredients" / f"000{index}.h5") for index in range(2)]
    each = [model.predict(raw["x"], raw["edge_index"]) for model in models]
    mean = torch.stack([one if models[0].target_mean else one.softmax(1) for one in each]).mean(0)
    np.testing.assert_allclose(np.load("all.npy"), mean.numpy(), rtol=1e-3, atol=1e-3)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("run", [()], indirect=True)
def test_another_graph_that_does_not_fit_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(error: type[SoupError], source: str) -> str:
        assert main(["predict", str(here), "--method", "pls", "--graph", source]) == error.exit_code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    raw = other_graph()
    assert "x has 500 features a node, and the run's models were trained on 12" in fails(GraphError, "bundled:pubmed")
    assert "expected one of bundled:" in fails(JobError, "bare.npz")
    assert "expected one of bundled:" in fails(JobError, "")
    assert "there is no file bare.npz" in fails(GraphError, "npz:bare.npz")
    for wrong, words in (
        ({"edge_index": raw["edge_index"] + 1}, "is 170, out of range for 170 nodes"),
        ({"x": raw["x"] * np.nan}, "not finite, first at node 0"),
        ({"x": np.array(["a"])}, "x holds <U1 of shape (1,); expected numbers of shape (V, F)"),
    ):
        np.savez("wrong.npz", **raw | wrong)
        assert words in fails(GraphError, "npz:wrong.npz")
    np.savez("wrong.npz", edge_index=raw["edge_index"])
    assert "'x' is missing" in fails(GraphError, "npz:wrong.npz")
    assert not list(Path().glob("*.npy"))


@pytest.mark.parametrize("run", [()], indirect=True)
def test_what_cannot_be_predicted_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(code: int, *words: str) -> str:
        assert main(["predict", str(here), *words]) == code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--method lsp: the run has no such soup; there are: pls, ensemble" in fails(
        RunError.exit_code, "--method", "lsp"
    )
    assert "scores.csv: scores are a file of .npy" in fails(RunError.exit_code, "--to", "scores.csv")
    assert "is too little" in fails(MemoryLimitError.exit_code, "--memory-limit", "10 MiB")
