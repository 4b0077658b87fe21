"""Jobs and runs from Python: the page's example, the same as the commands, and nothing else changed in the process."""

from __future__ import annotations

import json
import re
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gnnsoup_hpc as gs
from gnnsoup_hpc import api
from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, GraphError, JobError, LauncherError, MemoryLimitError, RunError
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs, tiny

DOCS = Path(__file__).resolve().parent.parent / "docs" / "python.md"
SMALL = {"train.ingredients": 2, "train.epochs": 2, "soup.methods": ["uniform"], "soup.diagnose": False}


def observe() -> list[Any]:
    """What a script has set in its process."""
    heard = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]
    return [torch.get_num_threads(), sys.excepthook, torch.get_rng_state().tolist(), *heard]


def test_the_pages_example_runs_and_says_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, *_ = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    found, before = dict[str, Any](), observe()
    exec(compile(code, str(DOCS), "exec"), found)
    assert observe() == before
    out, err = capfd.readouterr()
    assert err == ""
    first, header, *rows, last = out.splitlines()
    assert first.startswith("{")
    assert header.split() == ["method", "test_accuracy"]
    assert [row.split()[1] for row in rows] == ["gis", "pls"]
    assert re.fullmatch(r"\[([012] ?){9}\]", last)
    assert found["scores"].shape == (19717, 3)
    assert found["config"].model.hidden == 16
    assert {path.name for path in tmp_path.iterdir()} == {
        *("runs", "new.npz"),
        *(f"soup.{suffix}" for suffix in ("pt", "json", "md", "py")),
    }


def test_type_checkers_see_all_names() -> None:
    stub = (Path(gs.__file__).with_suffix(".pyi")).read_text()
    assert re.findall(r"^from gnnsoup_hpc.api import (\w+) as \1$", stub, re.M) == api.__all__


class TestJobs:
    def test_files_names_and_tables_are_the_same(self, tmp_path: Path) -> None:
        path = tiny.write_job(tmp_path)
        tree = tomllib.loads(path.read_text())
        assert gs.load_config(path) == gs.load_config(str(path)) == gs.load_config(tree) == runs.jobs.load(str(path))
        changed = gs.load_config(tree, {"train.epochs": 5, "soup.methods": ["ls"], "sweep.ls": {"epochs": [1, 2]}})
        assert (changed.train.epochs, changed.soup.methods) == (5, ("ls",))
        assert changed == runs.jobs.load(
            str(path), ["train.epochs=5", "soup.methods=['ls']", "sweep.ls={ epochs = [1, 2] }"]
        )
        assert tree == tomllib.loads(path.read_text())
        assert gs.load_config("pubmed-gat") == runs.jobs.load("pubmed-gat")

    def test_a_factory_of_tables_is_looked_for_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        job = gs.load_config({"name": "mine", "model": {"kind": "module", "factory": "models:make"}})
        assert job.model.folder == str(tmp_path)

    @pytest.mark.parametrize(
        ("source", "overrides", "message"),
        [
            ("pubmed", {"train.epoch": 5}, "pubmed.toml with train.epoch=5: unknown key 'train.epoch'; the nearest"),
            ("pubmed", {"train.epochs": "5"}, "train.epochs = '5': input should be a valid integer"),
            ("pubmed", {"name.more": 5}, "override 'name.more': 'name' is a value, not a table"),
            ("pubmed", {"model.kind": "gnn"}, "gnn"),
            ({}, {}, "the job: the key 'name' is missing"),
            ({"name": "mine", "train": 5}, {}, "the job: train = 5: input should be a table"),
            ("nowhere.toml", {}, "there is no job file 'nowhere.toml' here"),
        ],
    )
    def test_what_is_wrong_is_named(self, source: Any, overrides: dict[str, Any], message: str) -> None:
        with pytest.raises(JobError, match=re.escape(message)) as caught:
            gs.load_config(source, overrides)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("own_excepthook")
class TestRuns:
    def test_a_run_has_what_the_commands_show(self, finished: Job, capsys: pytest.CaptureFixture[str]) -> None:
        place, run = RunDir.of(finished).root, gs.Run(RunDir.of(finished).root)
        assert main(["status", str(place), "--json"]) == 0
        told, now = json.loads(capsys.readouterr().out), run.status()
        passing = {"now", "own_clock", "estimate"}
        assert {key: told[key] for key in told.keys() - passing} == {
            key: json.loads(json.dumps(now[key])) for key in now.keys() - passing
        }
        assert run.job.train == finished.train
        assert run.report()["methods"].equals(gs.read_report(place)["methods"])
        assert [one.state.keys() for one in run.ingredients] == [run.soup("pls").state.keys()] * 3
        assert repr(run) == f"Run('{place}')"

    def test_scores_and_exports_are_those_of_the_commands(
        self, finished: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run, raw = gs.Run(RunDir.of(finished).root), tiny.planted(seed=3, nodes=90)
        np.savez("new.npz", x=raw["x"], edge_index=raw["edge_index"])
        for graph, words in ((None, []), ("npz:new.npz", ["--graph", "npz:new.npz"])):
            for method in ("ls", "ensemble"):
                asked = ["predict", str(run.path), "--method", method, *words, "--to", "theirs.npy"]
                assert main(asked) == 0
                theirs, ours = np.load("theirs.npy"), run.predict(method, graph)
                kept = run.predict(method, graph, to="ours.npy")
                assert ours.dtype == np.float32
                assert np.array_equal(ours, theirs)
                assert np.array_equal(kept, theirs)
                assert isinstance(kept, np.memmap)
        wanted = run.soup("ls").predict(raw["x"], raw["edge_index"]).numpy()
        np.testing.assert_allclose(run.predict("ls", "npz:new.npz"), wanted, rtol=1e-4, atol=1e-4)
        np.savez("new.npz", x=raw["x"], edge_index=raw["edge_index"], edge_weight=np.arange(raw["edge_index"].shape[1]))
        with pytest.raises(GraphError, match="edge_weight"):
            run.predict("ls", "npz:new.npz")
        ignoring = run.predict("ls", "npz:new.npz", overrides={"graph.edge_weight": "ignore"}, progress=True)
        np.testing.assert_allclose(ignoring, wanted, rtol=1e-4, atol=1e-4)
        assert "predict: edge_weight is ignored" in capsys.readouterr().out
        with pytest.raises(MemoryLimitError, match="is too little"):
            run.predict("ls", overrides={"machine.memory_limit": "10 MiB"})
        made = run.export("soup.pt", "ls")
        Path("again").mkdir()
        assert main(["export", str(run.path), "--method", "ls", "--to", "again/soup.pt"]) == 0
        for path in made:
            assert path.read_bytes() == (Path("again") / path).read_bytes()

    @pytest.mark.parametrize(
        "ask",
        [gs.Run.status, gs.Run.predict, lambda run: run.ingredients, lambda run: run.export("soup.pt"), gs.Run.report],
    )
    def test_a_folder_that_is_no_run_is_said(self, ask: Callable[[gs.Run], object], tmp_path: Path) -> None:
        with pytest.raises((RunError, FileError), match=re.escape(str(tmp_path))):
            ask(gs.Run(tmp_path))


class TestSteps:
    def test_steps_take_any_job_and_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = tiny.write_job(tmp_path)
        job = gs.load_config(path, {**SMALL, "machine.threads": 2})
        before = observe()
        with pytest.raises(RunError, match=r"run `gnnsoup train JOB` first"):
            gs.make_soups(job)
        run = gs.prepare(job)
        assert (run.path / "graph.h5").exists()
        with pytest.raises(RunError, match="ingredients"):
            gs.make_soups(job)
        assert capsys.readouterr().out == ""
        gs.train_ingredients(job, progress=True)
        said = capsys.readouterr().out
        assert "2 threads (machine.threads)" in said
        assert "2 of 2 ingredients are there already" not in said
        gs.train_ingredients(job, progress=True)
        assert "2 of 2 ingredients are there already" in capsys.readouterr().out
        gs.make_soups(job, progress=True)
        assert re.search(r"^uniform +0\.\d+", capsys.readouterr().out, re.M)
        assert [len(run.ingredients), list(run.report()["methods"]["method"])] == [2, ["uniform"]]
        assert observe() == before
        gs.prepare(path)  # as a file
        with pytest.raises(JobError, match="name"):
            gs.prepare({"graph": {"source": f"npz:{tmp_path / 'tiny.npz'}"}})

    def test_errors_are_the_packages_and_change_nothing(self, tmp_path: Path) -> None:
        job, before = gs.load_config(tiny.write_job(tmp_path), {"runs": str(tmp_path / "runs")}), observe()
        (tmp_path / "tiny.npz").unlink()
        with pytest.raises(GraphError, match="there is no file"):
            gs.train_ingredients(job)
        assert observe() == before

    def test_several_ranks_are_for_the_commands(self, trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PMI_RANK", "1")
        monkeypatch.setenv("PMI_SIZE", "2")
        monkeypatch.delenv("OMPI_COMM_WORLD_RANK", raising=False)
        with pytest.raises(LauncherError, match="this is rank 1 of 2"):
            gs.make_soups(trained)
