"""Every kind of task goes the whole way: trained, souped by every method, diagnosed, reported.

Alone and by two ranks, in memory and layer by layer, by every engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from sklearn import metrics as scikit

import gnnsoup_hpc
from gnnsoup_hpc.analysis import export
from gnnsoup_hpc.analysis.diagnosis.basin import compute_barriers
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.analysis.report.verdicts import verdicts
from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import show_status
from gnnsoup_hpc.config import METHOD_NAMES, Job, TaskJob
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import ENGINES
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.evaluation import evaluator as evaluators
from gnnsoup_hpc.evaluation.tasks import Regression, score
from gnnsoup_hpc.io import export as files
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io import standalone
from gnnsoup_hpc.io.model import read_model
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.comm import SERIAL
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.mixtures import Candidate
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.types import Role
from tests import kinds, runs
from tests.comms import CheckingComm, run_ranks
from tests.once import make_once
from tests.ranks.souping import Outcome, run_case, soup_all

pytestmark = pytest.mark.usefixtures("sections_of_three_rows")
every_kind = pytest.mark.parametrize("kind", kinds.KINDS)
METRIC = {
    "multiclass": "f1_macro",
    "pair": "accuracy",
    "binary": "roc_auc",
    "multilabel": "roc_auc",
    "regression": "r2",
    "error": "mae",
}
LITTLE = 300_000  # bytes: layer by layer


@pytest.fixture(scope="session")
def souped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    """A run of each kind with all soups and its report; those of mini-batches for three of them."""

    def make(kind: str) -> Job:
        batch = ("train.batch=cluster", "train.clusters=3") if kind in ("multilabel", "error", "binary") else ()
        options = (*batch, "train.epochs=25", "train.dropout=0.2")
        folder = make_once(
            tmp_path_factory, f"souped-{kind}", lambda folder: runs.soup_run(kinds.train_run(folder, kind, *options))
        )
        return runs.load_job(folder, *kinds.KINDS[kind], *options)

    return make


def by_scikit(kind: str, outputs: np.ndarray, y: np.ndarray) -> float:
    """The metric of a model's outputs, in the source's units."""
    if kind == "multiclass":
        return float(scikit.f1_score(y, outputs.argmax(1), average="macro"))
    if kind == "pair":
        return float(scikit.accuracy_score(y, outputs.argmax(1)))
    if kind == "binary":
        return float(scikit.roc_auc_score(y, outputs[:, 0]))
    one = {"multilabel": scikit.roc_auc_score, "regression": scikit.r2_score, "error": scikit.mean_absolute_error}[kind]
    known = [~np.isnan(column) for column in y.T]
    return float(np.mean([one(y[k, t], outputs[k, t]) for t, k in enumerate(known)]))


def compute_outputs(path: Path, job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By PyG's class of a soup's or an ingredient's weights: outputs in the source's units, labels, roles."""
    model = read_model(path)
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        whole = loader.load_whole(graph, Role.TEST).graph
        adjacency = whole.adjacency
        edges = torch.stack([adjacency.indices.long(), adjacency.row.long()])
        with torch.no_grad():
            outputs = model.as_pyg()(whole.x, edges).double().numpy()
        task = evaluators.make_task(job.task, graph)
        if isinstance(task, Regression):
            assert (task.mean, task.spread) == (model.target_mean, model.target_spread)
            outputs = outputs * np.array(model.target_spread) + np.array(model.target_mean)
        return outputs, graph.y(0, graph.nodes), graph.role(0, graph.nodes)


@every_kind
def test_metrics_of_files_are_scikits_of_what_pyg_computes(kind: str, souped: Callable[[str], Job]) -> None:
    job = souped(kind)
    run = RunDir.of(job)
    for path, made in [
        (run.ingredient(1), ingredient_store.read(run.ingredient(1))),
        (run.soup("pls"), soup_store.read(run.soup("pls"))),
        (run.soup("uniform"), soup_store.read(run.soup("uniform"))),
    ]:
        assert made.judged.metric == METRIC[kind]
        outputs, y, role = compute_outputs(path, job)
        assert made.test_accuracy == pytest.approx(
            by_scikit(kind, outputs[role == Role.TEST], y[role == Role.TEST]), rel=1e-4
        )
        judged = role == Role.VALIDATION
        assert made.validation_accuracy == pytest.approx(by_scikit(kind, outputs[judged], y[judged]), rel=1e-4)
        if kind == "pair":
            yes = outputs[role == Role.TEST] @ [-1, 1]
            assert made.judged.others["test_roc_auc"] == pytest.approx(
                scikit.roc_auc_score(y[role == Role.TEST], yes), rel=1e-4
            )


@every_kind
def test_the_best_is_chosen_by_the_metric(kind: str, souped: Callable[[str], Job]) -> None:
    run = read_contents(RunDir.of(souped(kind)).root)
    task, scores = run.task, [score(run.task, one.validation_accuracy) for one in run.ingredients]
    best, greedy, gis = (run.soup(name) for name in ("best", "greedy", "gis"))
    assert best is not None
    assert greedy is not None
    assert gis is not None
    assert best.mixture.alpha.argmax() == int(np.argmax(scores))
    assert score(task, best.validation_accuracy) == max(scores)
    for soup in (greedy, gis):
        assert score(task, soup.validation_accuracy) >= max(scores) - 1e-6 * task.unit
    for one in run.ingredients:
        judged = [score(task, epoch.validation_accuracy) for epoch in one.history]
        assert one.best_epoch == 1 + int(np.argmax(judged))
    assert score(task, best.test_accuracy) > score(task, run.baseline["test"])  # it has learned something


@every_kind
def test_the_report_names_the_metric_and_its_errors(kind: str, souped: Callable[[str], Job]) -> None:
    job = souped(kind)
    run = read_contents(RunDir.of(job).root)
    text = show_run(run)
    tables = gnnsoup_hpc.read_report(RunDir.of(job).root)
    with h5py.File(RunDir.of(job).report) as file:
        assert file.attrs["metric"] == METRIC[kind]
    assert tables["baseline"]["metric"].tolist() == [METRIC[kind]]
    assert tables["baseline"]["test_accuracy"].tolist() == [run.baseline["test"]]
    assert tables["methods"]["method"].tolist() == list(METHOD_NAMES)
    assert f"\n{run.task.guess_words} " in text
    assert f"with test {run.metric} " in text
    assert "not known" not in text
    assert run.diagnosis is not None
    assert run.diagnosis.metric == METRIC[kind]
    for barrier in compute_barriers(run.diagnosis, run.diagnosis.variants[0], run.task):
        assert 0.0 <= barrier.error < 0.3 * run.task.unit
    units = "1" if kind in ("regression", "error") else "nat"
    for path, name in [
        (run.run.ingredient(0), "history/loss"),
        (run.run.soup("ls"), "history/loss"),
        (run.run.diagnosis, "ingredients/loss"),
        (run.run.diagnosis, "midpoints/loss"),
        (run.run.report, "diagnosis/loss"),
    ]:
        with h5py.File(path) as file:
            assert file[name].attrs["units"] == units
    status = show_status(read_status(job, run.run))
    assert f"validation{'' if kind == 'pair' else f' {run.metric}'} best " in status
    if kind == "pair":
        assert "test_error" not in tables["methods"]
        assert {"test_roc_auc", "test_average_precision"} <= {*tables["methods"], *tables["ingredients"]}
        assert "test ROC-AUC" in text
        return
    for soup, error in zip(run.soups, tables["methods"]["test_error"], strict=True):
        assert error == run.error_of(soup) == np.nanstd(soup.judged.test_draws)
        assert soup.paired is None
        assert soup.test_right is None
    assert "binomial" not in text
    if kind != "error":
        assert " points" in text or kind == "regression"


@pytest.mark.parametrize("asked", ["soup.distil.temperature=2.0", "sweep.distil.temperature=[1.0, 2.0]"])
def test_numbers_have_no_temperature(asked: str, souped: Callable[[str], Job]) -> None:
    job = runs.change_job(souped("regression"), "soup.methods=['distil']", asked)
    with pytest.raises(JobError, match=r"soup\.distil\.temperature = 2: outputs of a regression have no temp"):
        runs.soup_run(job)


def outcomes(job: Job, case: str, **more: object) -> Outcome:
    return run_case(SERIAL, job, case, **more)


@every_kind
@pytest.mark.parametrize("case", ["gis", "ls", "pls-adam", "ensemble"])
def test_two_ranks_make_what_one_makes(kind: str, case: str, souped: Callable[[str], Job], tmp_path: Path) -> None:
    job = souped(kind)
    if kind in ("regression", "error"):
        case = case.removesuffix("-adam")
    alone = outcomes(job, case, home=tmp_path / "alone")
    for found in run_ranks(2, lambda comm: run_case(CheckingComm(comm), job, case, home=tmp_path / str(comm.rank))):
        np.testing.assert_allclose(found.alpha, alone.alpha, atol=1e-8)
        np.testing.assert_allclose(found.history[:, 2], alone.history[:, 2], rtol=1e-6)
        assert found.metrics == pytest.approx(alone.metrics, rel=1e-6)


@every_kind
@pytest.mark.parametrize("of", ["weights", "predictions"])
def test_layer_by_layer_metrics_are_the_same(kind: str, of: str, souped: Callable[[str], Job], tmp_path: Path) -> None:
    job, found = souped(kind), []
    for memory in (1 << 30, LITTLE):
        with runs.open_mixtures(job, memory=memory, home=tmp_path) as mixtures:
            assert mixtures.evaluator.fits == (memory != LITTLE)
            alpha = torch.full((1, 3), 1.0 / 3.0, dtype=torch.float64)
            found.append(mixtures.predictions(Candidate(alpha, of=of), (Role.VALIDATION, Role.TEST)))
    for whole, streamed in zip(*found, strict=True):
        assert streamed.metric == pytest.approx(whole.metric, rel=1e-5)
        assert streamed.others == pytest.approx(whole.others, rel=1e-5)
        if whole.draws is not None:
            np.testing.assert_allclose(streamed.draws, whole.draws, rtol=1e-4)


@every_kind
@pytest.mark.parametrize("case", ["gis", "ls", "pls"])
def test_every_engine_makes_the_same_soup(
    kind: str, case: str, souped: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An engine is given gradients of logits, whatever the loss."""
    job, found = souped(kind), {}
    for engine in ENGINES:
        if engine.name in ("compiled", "torch"):
            monkeypatch.setattr(evaluators, "choose_engine", lambda model, device, engine=engine: engine)
            found[engine.name] = outcomes(job, case, home=tmp_path)
    assert len(found) == 2
    one, other = found["compiled"], found["torch"]
    np.testing.assert_allclose(other.alpha, one.alpha, atol=1e-3)
    np.testing.assert_allclose(other.history[:, 1], one.history[:, 1], rtol=1e-3)
    assert other.metrics == pytest.approx(one.metrics, rel=1e-2)


@pytest.mark.parametrize("kind", ["multilabel", "error"])
def test_two_ranks_end_with_the_same_files(kind: str, souped: Callable[[str], Job], tmp_path: Path) -> None:
    """Alignment by activations too; then the same command makes nothing anew."""
    job = runs.copy_run(souped(kind), tmp_path)
    job = runs.change_job(job, "soup.methods=['best', 'greedy', 'pls']", "soup.align=activations")
    run_ranks(2, lambda comm: soup_all(CheckingComm(comm), job, again=True))
    run = RunDir.of(job)
    first = [run.soup(name).read_bytes() for name in job.soup.methods]
    assert soup_store.read(run.soup("greedy")).judged.metric == METRIC[kind]
    run_ranks(2, lambda comm: soup_all(CheckingComm(comm), job))
    assert [run.soup(name).read_bytes() for name in job.soup.methods] == first


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_an_exported_soup_predicts_what_the_report_says(
    kind: str, souped: Callable[[str], Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = souped(kind)
    run = read_contents(RunDir.of(job).root)
    soup = export.choose_soup(run, "pls")
    card = export.make_card(run, soup)
    assert (card["task"]["kind"], card["metrics"]["metric"]) == (kind, METRIC[kind])
    assert f"Test {run.metric} {soup.test_accuracy:.4f}" in export.show_card(card, "soup.pt")
    files.write(tmp_path / "soup.pt", read_model(run.run.soup("pls")), card, "")
    monkeypatch.setattr(standalone, "HERE", tmp_path / "soup.py")
    monkeypatch.setattr(standalone, "read_card", standalone.read_card.__wrapped__)
    with np.load(Path(job.runs).parent / "tiny.npz") as raw, h5py.File(run.run.graph) as graph:
        found = standalone.predict(raw["x"], raw["edge_index"]).double().numpy()
        test = graph["nodes/original_id"][:][graph["nodes/split"][:] == Role.TEST]
        assert by_scikit(kind, found[test], raw["y"][test]) == pytest.approx(soup.test_accuracy, rel=1e-4)


def test_of_a_sweep_the_trial_of_the_best_metric_is_the_soup(souped: Callable[[str], Job], tmp_path: Path) -> None:
    """Of errors the lowest."""
    job = runs.copy_run(souped("error"), tmp_path)
    lists = "sweep.pls.epochs=[1, 6]", "sweep.pls.learning_rate=[0.3, 20.0]"
    job = runs.change_job(job, "soup.methods=['pls']", "soup.diagnose=false", *lists)
    run = read_contents(RunDir.of(runs.soup_run(job)).root)
    errors = [trial.soup.validation_accuracy for trial in run.trials if trial.soup]
    assert len(set(errors)) > 1
    assert [trial.selected for trial in run.trials] == [error == min(errors) for error in errors]
    assert run.soups[0].validation_accuracy == min(errors)


def test_it_is_said_where_a_metric_hides_that_nothing_was_learned(tmp_path: Path) -> None:
    """Labels that are drawn at random."""
    job = kinds.write(tmp_path, "multilabel", "train.epochs=2", "soup.methods=['best', 'uniform']", ingredients=2)
    place = tmp_path / "tiny.npz"
    with np.load(place) as raw:
        arrays = dict(raw)
    np.random.default_rng(1).shuffle(arrays["y"])
    np.savez(place, **arrays)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    runs.soup_run(job)
    said = verdicts(read_contents(RunDir.of(job).root))
    assert any("no better than that of equal scores, 0.5000: the error is" in line for line in said), said


def test_labels_are_counted_where_memory_is(tmp_path: Path) -> None:
    job = kinds.prepare_run(tmp_path, "multilabel")
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        net = make_model(job.model, graph.features, graph.classes)
        sizes = Sizes.of(graph, net)
        assert sizes.targets == 4
        more = estimate.EVALUATED_TARGET * 4 * graph.nodes
        few = estimate.least_inference(replace(sizes, targets=0))[1]
        assert estimate.least_inference(sizes)[1] == few + more
        assert estimate.inference(sizes) == estimate.inference(replace(sizes, targets=0)) + more


FIELDS = {
    "kind": ("pair", "binary"),
    "metric": ("pair", "f1_macro"),
    "label_smoothing": ("pair", "0.1"),
    "class_weights": ("pair", "balanced"),
    "targets": ("regression", "none"),
}


@pytest.mark.parametrize(("name", "how"), FIELDS.items(), ids=FIELDS)
def test_every_field_is_in_the_fingerprints(name: str, how: tuple[str, str], souped: Callable[[str], Job]) -> None:
    assert set(FIELDS) == set(TaskJob.model_fields)
    kind, value = how
    job = souped(kind)

    def fingerprint(job: Job) -> tuple[str, str]:
        with runs.open_mixtures(job) as mixtures:
            selection = Selection({0: "a", 1: "b", 2: "c"}, {})
            origin = ingredient_store.Origin.of(job, mixtures.model, mixtures.graph, "initial", 0)
            return origin.recipe, SoupRunner(job, selection, mixtures, runs.QUIET).fingerprint("ls").sha256

    before, after = fingerprint(job), fingerprint(runs.change_job(job, f"task.{name}={value}"))
    assert all(one != other for one, other in zip(before, after, strict=True))
    said = {"pair": "multiclass", "regression": "regression"}[kind]
    plain = [f"task.kind={said}", "soup.ls.logit_scale=false", "soup.pls.logit_scale=false"]
    assert fingerprint(runs.change_job(job, *plain))[0] == before[0]  # as auto has it


def test_another_metric_is_another_recipe(souped: Callable[[str], Job], tmp_path: Path) -> None:
    job = runs.copy_run(souped("multilabel"), tmp_path)
    other = runs.change_job(job, "task.metric=average_precision")
    with pytest.raises(RunError, match=r"is of another recipe: task.metric was 'roc_auc', the job says 'average_prec"):
        runs.train(other)
    numbers = "task.kind=regression", "soup.ls.logit_scale=false", "soup.pls.logit_scale=false"
    with pytest.raises(RunError, match=r"was made with task.kind = 'multilabel', the job says 'regression'"):
        runs.train(runs.change_job(job, *numbers))
