"""Which engine trains: the one that a run was begun by, what the job says, or the fastest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.engine import find_engine
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.graph import sampling
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import KIND, VERSION
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.runner import _find_engine
from tests import runs

GPU = torch.device("cuda")
NET = Architecture("sage", 2, 4, 8, 3)


def read_engine(path: Path) -> str:
    with files.read_file(path, KIND, VERSION) as file:
        return str(files.get_json(file["provenance"], "origin").get("train.engine", "torch"))


def test_a_run_goes_on_with_the_engine_that_began_it(tmp_path: Path) -> None:
    job = runs.prepare_run(tmp_path, "train.ingredients=2", "train.epochs=2", "train.engine=torch")
    runs.train(job)
    run = RunDir.of(job)
    assert ingredient_store.find_engine_name(job, run) == "torch"
    run.ingredient(1).unlink()
    opened = runs.change_job(job, "train.engine=auto")
    assert ingredient_store.find_engine_name(opened, run) == "torch"
    runs.train(opened)
    assert read_engine(run.ingredient(1)) == "torch"
    shutil.rmtree(run.ingredients)
    run.gathered.unlink()
    runs.train(opened)
    assert read_engine(run.ingredient(0)) == "compiled"


def test_a_trained_run_is_right_on_a_machine_that_its_engine_does_not_compute_on(trained: Job) -> None:
    run = RunDir.of(trained)
    assert ingredient_store.find_engine_name(trained, run) == "compiled"
    assert _find_engine(trained, run, NET, GPU).supports(NET, GPU)


def test_a_run_that_another_machine_began_says_what_to_do(trained: Job, tmp_path: Path) -> None:
    shutil.copytree(RunDir.of(trained).root, tmp_path / trained.name)
    job = trained.model_copy(update={"runs": str(tmp_path)})
    RunDir.of(job).ingredient(2).unlink()
    with pytest.raises(RunError, match=r"begun by the engine 'compiled'.* machine.device = 'cpu'"):
        _find_engine(job, RunDir.of(job), NET, GPU)


def test_an_engine_that_does_not_compute_there_is_refused(trained: Job) -> None:
    job = runs.change_job(trained, "train.engine=compiled")
    with pytest.raises(JobError, match="does not compute models of kind 'sage' on a GPU"):
        _find_engine(job, RunDir.of(job), NET, GPU)
    with pytest.raises(JobError, match="'fast' is not known here; there are: compiled, triton, torch"):
        find_engine("fast", NET, GPU)


def test_a_run_goes_on_with_the_sampler_that_began_it(tmp_path: Path) -> None:
    neighbour = ("train.batch=neighbour", "train.batch_size=40", "train.fanout=[3]", "train.clusters=2")
    job = runs.prepare_run(tmp_path, "train.ingredients=1", "train.epochs=1", "train.sampler=own", *neighbour)
    opened = runs.change_job(job, "train.sampler=auto")
    run = RunDir.of(job)
    assert ingredient_store.resolve_job(opened, run).train.sampler == "auto"
    runs.train(job)
    assert ingredient_store.resolve_job(opened, run).train.sampler == "own"
    runs.train(opened)  # refuses nothing
    shutil.rmtree(run.ingredients)
    run.gathered.unlink()
    runs.train(opened)
    with files.read_file(run.ingredient(0), KIND, VERSION) as file:
        assert files.get_json(file["provenance"], "origin")["train.sampler"] == "compiled"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("train.engine=triton", "train.engine = 'triton' does not compute"),
        ("train.precision=bfloat16", "the engine 'torch' trains in float32 on a CPU"),
        ("train.sampler=pyg", "neither pyg-lib nor torch-sparse is installed"),
    ],
)
def test_what_a_machine_has_not_is_refused_before_the_graph_is_made(
    asked: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "has_pyg_sampler", lambda: False)
    engine = [] if "engine" in asked else ["--set", "train.engine=torch"]
    more = ["--set", f"runs={tmp_path / 'runs'}", "--set", "train.batch=neighbour", "--set", asked, *engine]
    assert main(["train", "pubmed", *more]) == JobError.exit_code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
