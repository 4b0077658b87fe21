"""A run of a user's module with batch norm: trained, souped, read, on ranks, within little memory; changed code."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch

import gnnsoup_hpc as gs
from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.diagnosis.basin import list_midpoints
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.recomputed import judge_recomputed
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import MemoryLimitError, RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.evaluation.tasks import Regression, Task
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.models.module import ModuleModel
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.mixtures import Candidate
from gnnsoup_hpc.train.loop import Training
from gnnsoup_hpc.types import Role
from tests import runs, tiny
from tests.comms import run_ranks
from tests.io.test_export import predict_alone
from tests.models import modules
from tests.ranks.souping import run_case

ROLES = Role.VALIDATION, Role.TEST
JOB = """\
name = "own"
runs = "{folder}/runs"
[graph]
source = "npz:{folder}/tiny.npz"
[partition]
parts = 8
[model]
kind = "module"
factory = "{module}:make"
hops = 2
[model.arguments]
hidden = 8
[train]
ingredients = 3
epochs = 10
learning_rate = 0.02
[soup]
methods = ["best", "uniform", "greedy", "gis", "ls", "pls", "ensemble", "distil"]
[soup.gis]
granularity = 4
[soup.ls]
epochs = 5
[soup.pls]
epochs = 5
union = 3
[soup.distil]
epochs = 4
union = 3
[machine]
threads = 1
"""


def write_job(folder: Path, module: str) -> Path:
    """A job and its module in a folder, the module by a name that no other test has."""
    np.savez(folder / "tiny.npz", **tiny.planted())
    shutil.copy(modules.__file__, folder / f"{module}.py")
    path = folder / "job.toml"
    path.write_text(JOB.format(folder=folder, module=module), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """All of a run."""
    folder = tmp_path_factory.mktemp("own")
    job = load_job(str(write_job(folder, "own_modules")))
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    return runs.soup_run(job)


def measure_alone(job: Job, state: dict[str, torch.Tensor]) -> list[float]:
    """What the module makes of the run's graph by itself."""
    module = modules.make(tiny.FEATURES, tiny.CLASSES)
    module.load_state_dict(state, strict=True)
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph, torch.no_grad():
        whole = loader.load_whole(graph, Role.VALIDATION).graph
        found = module.eval()(whole.x, whole.adjacency.edge_index).argmax(1).numpy()
        roles, labels = graph.role(0, graph.nodes), graph.y(0, graph.nodes)
    return [float((found == labels)[roles == role].mean()) for role in ROLES]


def test_metrics_are_the_modules_own(own: Job) -> None:
    run = RunDir.of(own)
    for index in range(3):
        ingredient = ingredient_store.read(run.ingredient(index))
        assert [ingredient.validation_accuracy, ingredient.test_accuracy] == measure_alone(own, ingredient.state)
        assert ingredient.validation_accuracy > 0.5
        assert ingredient.engine == "torch"
        assert int(ingredient.state["norms.0.num_batches_tracked"]) == ingredient.best_epoch
    for method in METHOD_NAMES:
        soup = soup_store.read(run.soup(method))
        if soup.state is not None:
            assert [soup.validation_accuracy, soup.test_accuracy] == measure_alone(own, soup.state)
            again = gs.load_soup(run.root, method)
            assert measure_alone(own, again.as_pyg().state_dict()) == measure_alone(own, soup.state)


def test_statistics_of_a_soup_are_those_of_its_weights(own: Job) -> None:
    run = RunDir.of(own)
    states = [ingredient_store.read(run.ingredient(index)).state for index in range(3)]
    soup = soup_store.read(run.soup("uniform"))
    assert soup.state is not None
    assert soup.recomputed is not None
    means = {name: sum(state[name].double() for state in states) / 3 for name in states[0]}
    torch.testing.assert_close(soup.state["head.weight"].double(), means["head.weight"], rtol=1e-5, atol=1e-6)
    name = "norms.1.running_var"
    assert not torch.allclose(soup.state[name].double(), means[name], rtol=1e-3)
    module = modules.make(tiny.FEATURES, tiny.CLASSES, rate=0.0)
    module.load_state_dict(soup.state)
    with graph_store.open_graph(run.graph, own) as graph, torch.no_grad():
        whole = loader.load_whole(graph, Role.VALIDATION).graph
    found = gs.recompute_statistics(
        module, soup.state, [whole], lambda each, batch: each(batch.x, batch.adjacency.edge_index)
    )
    torch.testing.assert_close(found, soup.state)
    mixed = {key: means[key].to(tensor.dtype) for key, tensor in soup.state.items()}
    assert [soup.recomputed.validation_mixed, soup.recomputed.test_mixed] == measure_alone(own, mixed)
    assert [soup.recomputed.validation_anew, soup.recomputed.test_anew] == measure_alone(own, soup.state)
    best = soup_store.read(run.soup("best"))
    assert best.recomputed is not None
    assert best.state is not None
    assert best.recomputed.test_mixed == best.test_accuracy  # an ingredient as it is has its own
    anew = gs.recompute_statistics(
        module, best.state, [whole], lambda each, batch: each(batch.x, batch.adjacency.edge_index)
    )
    assert [best.recomputed.validation_anew, best.recomputed.test_anew] == measure_alone(own, anew)


def test_the_report_says_what_recomputing_changed(own: Job) -> None:
    text = show_run(read_contents(RunDir.of(own).root))
    assert "own_modules:make (hidden = 8), on" in text
    assert "running statistics of batch norm, mixed as weights are or recomputed over all nodes" in text
    assert ("With recomputed running statistics the best ingredient alone has" in text) == is_lifted(own)
    with h5py.File(RunDir.of(own).report) as file:
        assert file["statistics/method"].asstr()[:].tolist() == [m for m in METHOD_NAMES if m != "ensemble"]
        assert (file["statistics/seconds"][:] >= 0).all()


def test_the_report_names_soups_that_recomputing_lowers(own: Job) -> None:
    run = read_contents(RunDir.of(own).root)
    uniform, best = run.soup("uniform"), run.soup("best")
    assert uniform is not None
    assert uniform.recomputed is not None
    assert best is not None
    assert best.recomputed is not None

    def judge(mixed: float, anew: float, error: float = 0.01, task: Task = run.task) -> str:
        """Of the uniform soup, and of an ingredient, which keeps its own."""
        assert uniform.recomputed is not None
        found = replace(uniform.recomputed, validation_mixed=mixed, validation_anew=anew, validation_error=error)
        soups = (replace(uniform, validation_accuracy=anew, recomputed=found),)
        soups += (replace(best, validation_accuracy=mixed, recomputed=found),)
        changed = replace(run, soups=soups, task=task)
        return " ".join(judge_recomputed(changed))

    low = judge(0.8, 0.7)
    assert "lowers the validation accuracy of uniform (0.8000 mixed, 0.7000 recomputed), beyond the error" in low
    assert 'set soup.recompute = "none"' in low
    assert "soup.recompute" not in judge(0.8, 0.79)  # within the error
    assert "soup.recompute" not in judge(0.7, 0.8)
    assert "soup.recompute" not in judge(0.8, 0.7, error=float("nan"))  # of a file that does not tell it
    mae = Regression(1, name="mae", higher_is_better=False)
    assert "raises the validation mean absolute error of uniform" in judge(0.7, 0.8, task=mae)
    assert "soup.recompute" not in judge(0.8, 0.7, task=mae)


def is_lifted(job: Job) -> bool:
    run = read_contents(RunDir.of(job).root)
    best = run.soup("best")
    assert best is not None
    assert best.recomputed is not None
    return best.recomputed.test_anew - best.recomputed.test_mixed > run.error_of(run.best)


def test_candidates_may_keep_mixed_statistics(own: Job, tmp_path: Path) -> None:
    job = runs.change_job(runs.copy_run(own, tmp_path), "soup.recompute=end")
    calls = []
    recompute = Evaluator.recompute

    def counted(evaluator: Evaluator, state: Any) -> Any:
        calls.append(1)
        return recompute(evaluator, state)

    for chosen, least in ((own, 4), (job, 0)):
        calls.clear()
        with pytest.MonkeyPatch.context() as patch, runs.open_mixtures(chosen) as mixtures:
            patch.setattr(Evaluator, "recompute", counted)
            mixtures._of_candidates = "own" if chosen.soup.recompute == "each" else "mixed"
            mixtures.metrics([Candidate(torch.full((1, 3), 1.0 / 3.0, dtype=torch.float64))] * 4)
        assert len(calls) == least
    runs.soup_run(job)
    assert soup_store.read(RunDir.of(job).soup("gis")).options["recompute"] == "end"


def test_no_statistics_are_recomputed_where_the_job_says_none(own: Job, tmp_path: Path) -> None:
    job = runs.change_job(runs.copy_run(own, tmp_path), "soup.recompute=none", "soup.methods=['uniform','gis','ls']")
    refused = Mock(side_effect=AssertionError("a pass for statistics"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModuleModel, "recompute", refused)
        runs.soup_run(job)
    run = RunDir.of(job)
    for method in ("uniform", "gis"):
        soup = soup_store.read(run.soup(method))
        assert soup.options["recompute"] == "none"
        assert soup.recomputed is None
        assert soup.state is not None
        states = [ingredient_store.read(run.ingredient(index)).state for index in range(3)]
        name = "norms.1.running_var"
        mixed = sum(
            float(share) * state[name].double() for share, state in zip(soup.mixture.alpha[0], states, strict=True)
        )
        torch.testing.assert_close(soup.state[name].double(), mixed, rtol=1e-5, atol=1e-6)
        assert [soup.validation_accuracy, soup.test_accuracy] == measure_alone(own, soup.state)
    found = diagnosis_store.read(run.diagnosis)
    assert not found.recomputed
    accuracies = [ingredient_store.read(run.ingredient(index)).validation_accuracy for index in range(3)]
    assert [each.alone.accuracy for each in found.ingredients] == accuracies
    assert found.best == f"{accuracies.index(max(accuracies)):04d}"
    assert found.variants[0].mean.accuracy == soup_store.read(run.soup("uniform")).validation_accuracy
    text = show_run(read_contents(run.root))
    assert 'running statistics of batch norm are mixed as weights are (soup.recompute = "none")' in text
    assert "recomputed" not in text


def test_an_average_has_statistics_of_its_own_whatever_mixtures_have(own: Job, tmp_path: Path) -> None:
    name = "averaged_modules"
    words = ["train.average=ema", "train.ingredients=1", "train.epochs=3", "soup.recompute=none"]
    job = load_job(str(write_job(tmp_path, name)), words)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    state = ingredient_store.read(RunDir.of(job).ingredient(0)).state
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        whole = loader.load_whole(graph, Role.VALIDATION).graph
    module = modules.make(tiny.FEATURES, tiny.CLASSES, rate=0.0)
    found = gs.recompute_statistics(
        module, state, [whole], lambda each, batch: each(batch.x, batch.adjacency.edge_index)
    )
    torch.testing.assert_close(found, state)


def test_the_best_of_a_diagnosis_is_chosen_by_ingredients_own_statistics(own: Job, tmp_path: Path) -> None:
    """As greedy and the report choose it: of equal weights, those with statistics that do not fit are not the best."""
    job = runs.copy_run(own, tmp_path)
    run, best = RunDir.of(job), read_contents(RunDir.of(own).root).best
    spoilt = {key: tensor + 9.0 if key.endswith("running_mean") else tensor for key, tensor in best.state.items()}
    with runs.open_mixtures(job) as mixtures:
        for index, state in enumerate((spoilt, best.state)):
            origin = ingredient_store.Origin.of(job, mixtures.model, mixtures.graph, "", index)
            ingredient_store.write(run.ingredient(index), replace(best, index=index, state=state), origin, job)
    assert main(["diagnose", str(run.root)]) == 0
    found = diagnosis_store.read(run.diagnosis)
    assert found.recomputed
    assert found.named("0000").alone == found.named("0001").alone
    assert found.best == "0001"
    assert (
        "the best is chosen by the metrics of ingredients with their own"
        in list_midpoints(found, read_contents(RunDir.of(own).root).task)[-1]
    )


def test_every_number_of_ranks_gives_the_same(own: Job, tmp_path: Path) -> None:
    for case in ("greedy", "gis", "ls", "pls"):
        alone = run_case(runs.SERIAL, own, case)
        for found in run_ranks(2, lambda comm, case=case: run_case(comm, own, case, home=tmp_path / str(comm.rank))):
            assert (found.alpha == alone.alpha).all()
            assert found.metrics == alone.metrics


def test_neighbourhoods_give_what_the_whole_graph_does(own: Job, tmp_path: Path) -> None:
    state = ingredient_store.read(RunDir.of(own).ingredient(0)).state
    with graph_store.open_graph(RunDir.of(own).graph, own) as graph:
        model = make_model(own.model, graph.features, graph.classes)
        found = []
        for memory in (1 << 30, 1_500_000):
            evaluator = Evaluator(graph, model, EvalSettings(runs.CPU, memory, tmp_path))
            assert evaluator.fits == (memory == 1 << 30)
            assert len(list(evaluator._logits([state], ROLES))) == 1 or not evaluator.fits
            found.append(torch.cat([logits for _, logits in evaluator._logits([state], ROLES)]))
            assert torch.equal(evaluator.recompute(state)["head.bias"], state["head.bias"])
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
        way, least = estimate.least_inference(Sizes.of(graph, model))
        assert way == "accuracies by neighbourhoods"
        little = replace(EvalSettings(runs.CPU, least, tmp_path), memory=min(least, 20 << 20))
        exact = ingredient_store.read(RunDir.of(own).ingredient(0))
        enough = Evaluator(graph, model, little)
        assert not enough.fits
        assert enough.metrics([state], ROLES) == [exact.validation_accuracy, exact.test_accuracy]
        with pytest.raises(MemoryLimitError, match=r"the neighbourhood of one node, of \d+ nodes, does not fit"):
            Evaluator(graph, model, EvalSettings(runs.CPU, 1000, tmp_path)).metrics([state], ROLES)
        unknown = make_model(own.model.model_copy(update={"hops": 0}), graph.features, graph.classes)
        with pytest.raises(MemoryLimitError, match=r"does not say how far it reaches: give model\.hops"):
            Evaluator(graph, unknown, EvalSettings(runs.CPU, 1000, tmp_path)).metrics([state], ROLES)


def test_other_groups_and_hops_need_no_new_ingredients(own: Job, tmp_path: Path) -> None:
    job = runs.change_job(runs.copy_run(own, tmp_path), "model.hops=0", 'model.groups=["convs"]', "soup.methods=['ls']")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "epoch", None)  # none is trained
        runs.train(job)
    runs.soup_run(job)
    soup = soup_store.read(RunDir.of(job).soup("ls"))
    assert soup.mixture.groups == ("first", "head", "convs", "skips", "norms")
    assert soup.options["groups"] == ["convs"]


def test_a_changed_module_does_not_go_on(own: Job, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    folder.mkdir()
    path = write_job(folder, "changed_modules")
    job = load_job(str(path), ["train.ingredients=1", "train.epochs=2"])
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    code = ingredient_store.origin(RunDir.of(job).ingredient(0))["model.code"]
    source = folder / "changed_modules.py"
    source.write_text(source.read_text(encoding="utf-8") + "\n# only a comment\n", encoding="utf-8")
    again = load_job(str(path), ["train.ingredients=2", "train.epochs=2"])
    with pytest.raises(RunError, match=f"model.code = '{code}'.*model.revision = '{code}'"):
        runs.train(again)
    assert main(["diagnose", str(RunDir.of(job).root)]) == RunError.exit_code
    named = load_job(str(path), ["train.ingredients=2", "train.epochs=2", f"model.revision={code}"])
    runs.train(named)
    assert ingredient_store.origin(RunDir.of(job).ingredient(1))["model.code"] == code


@pytest.mark.parametrize("batch", ["cluster", "neighbour"])
def test_mini_batches_train_a_module(batch: str, tmp_path: Path) -> None:
    name = f"{batch}_modules"
    words = [f"train.batch={batch}", "train.batch_size=64", "train.clusters=4", "train.ingredients=1"]
    job = load_job(str(write_job(tmp_path, name)), words)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    found = ingredient_store.read(RunDir.of(job).ingredient(0))
    assert [found.validation_accuracy, found.test_accuracy] == measure_alone(job, found.state)
    assert found.validation_accuracy > 0.5


def test_an_export_finds_the_module_beside_it(own: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", None)
    assert main(["export", str(RunDir.of(own).root), "--method", "ls", "--to", "soup.safetensors"]) == 0
    shutil.copy(modules.__file__, tmp_path / "own_modules.py")
    raw = tiny.planted()
    done = predict_alone(tmp_path / "soup.py", x=raw["x"], edge_index=raw["edge_index"])
    assert (done.returncode, done.stderr) == (0, "")
    wanted = gs.load_soup(RunDir.of(own).root, "ls").predict(raw["x"], raw["edge_index"])
    np.testing.assert_array_equal(np.load("scores.npy"), wanted.numpy())
