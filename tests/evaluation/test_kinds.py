"""Kinds of tasks: losses and scales against PyTorch, predictions of one model and of several, errors, refusals."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.config import TaskJob
from gnnsoup_hpc.config.task import TaskSpec, resolve_task
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.evaluation.tasks import NO_CLASS, Binary, Multiclass, Multilabel, Regression, make_task
from gnnsoup_hpc.evaluation.temperature import fit_binary_scale, fit_binary_scale_there, fit_scale, fit_scale_there
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from tests import kinds
from tests.arbitrary import normal

NODES = 40
SOME = torch.arange(NODES) % 3
YES = torch.arange(NODES) % 2
LABELS = torch.where(normal(3, NODES, 4) > 1.0, torch.nan, (normal(4, NODES, 4) > 0.5).double()).float()
NUMBERS = torch.where(LABELS.isnan(), torch.nan, 50.0 + 7.0 * normal(5, NODES, 4))
REGRESSION = Regression(4, name="mae", higher_is_better=False, mean=(50.0, 49.0, 0.0, 1.0), spread=(7.0, 2.0, 1.0, 3.0))


def logits(outputs: int) -> Tensor:
    return 2.0 * normal(1, NODES, outputs, kind=torch.float32)


def test_labels_that_are_missing_have_no_part_in_the_loss() -> None:
    task, z, known = Multilabel(4, name="roc_auc"), logits(4).requires_grad_(), ~LABELS.isnan()
    wanted = functional.binary_cross_entropy_with_logits(0.5 * z[known], LABELS[known])
    loss = task.loss(z, LABELS, scale=0.5)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert z.grad is not None
    assert z.grad[known].ne(0).all()
    assert z.grad[~known].eq(0).all()
    losses = task.losses(z.detach(), LABELS)
    assert losses.shape == (int(known.sum()),)
    assert losses.mean() == pytest.approx(float(task.loss(z, LABELS).detach()), rel=1e-6)


def test_a_regression_is_of_standardised_targets_and_told_in_the_sources_units() -> None:
    z, known = logits(4).requires_grad_(), ~NUMBERS.isnan()
    mean, spread = (torch.tensor(each, dtype=torch.float64) for each in (REGRESSION.mean, REGRESSION.spread))
    wanted = functional.mse_loss(z[known], ((NUMBERS - mean) / spread)[known].float())
    loss = REGRESSION.loss(z, NUMBERS)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert z.grad is not None
    assert z.grad[~known].eq(0).all()
    assert z.grad.isfinite().all()
    assert REGRESSION.losses(z.detach(), NUMBERS).mean() == pytest.approx(float(wanted.detach()), rel=1e-6)
    predicted = REGRESSION.predict(z.detach()).numpy()
    np.testing.assert_allclose(predicted, z.detach().double().numpy() * spread.numpy() + mean.numpy(), rtol=1e-12)
    off = np.abs(predicted - NUMBERS.numpy())
    assert REGRESSION.metric(predicted, NUMBERS.numpy()) == pytest.approx(np.nanmean(off, axis=0).mean(), rel=1e-12)
    assert REGRESSION.fit_scale(z, NUMBERS) == 1.0


def test_two_classes_by_one_output_are_two_by_two() -> None:
    """Sigmoid of z is softmax of 0 and z."""
    one, z = Binary(1, name="accuracy"), logits(1)
    two, both = Multiclass(2), torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(one.loss(z, YES, scale=0.7), two.loss(both, YES, scale=0.7))
    np.testing.assert_allclose(one.losses(z, YES), two.losses(both, YES), rtol=1e-9)
    assert one.predict(z).tolist() == two.predict(both).tolist()
    assert one.fit_scale(z, YES) == pytest.approx(two.fit_scale(both, YES), rel=1e-5)
    for name in ("roc_auc", "average_precision", "f1_macro", "f1_micro"):
        of_one, of_two = replace(one, name=name), replace(two, name=name)
        found = of_one.metric(of_one.predict(z).numpy(), YES.numpy())
        assert found == pytest.approx(of_two.metric(of_two.predict(both).numpy(), YES.numpy()), rel=1e-12)
    weighted = replace(one, weights=(0.5, 3.0)), replace(two, weights=(0.5, 3.0))
    torch.testing.assert_close(weighted[0].loss(z, YES), weighted[1].loss(both, YES))
    assert weighted[0].fit_scale(z, YES) == pytest.approx(weighted[1].fit_scale(both, YES), rel=1e-5)


def test_class_weights_and_label_smoothing() -> None:
    z = logits(3)
    task = Multiclass(3, weights=(0.5, 1.0, 4.0), smoothing=0.2)
    weight = torch.tensor(task.weights)
    torch.testing.assert_close(task.loss(z, SOME), functional.cross_entropy(z, SOME, weight))
    smoothed = functional.cross_entropy(z, SOME, weight, label_smoothing=0.2)
    torch.testing.assert_close(task.loss(z, SOME, train=True), smoothed)
    torch.testing.assert_close(
        Multiclass(3, smoothing=0.2).loss(z, SOME, train=True), functional.cross_entropy(z, SOME, label_smoothing=0.2)
    )
    answers = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    labels, y = Multilabel(2, name="roc_auc", weights=(1.0, 2.0, 3.0, 4.0)), logits(2)[:2]
    each = functional.binary_cross_entropy_with_logits(y, answers.nan_to_num(), reduction="none")
    wanted = (3.0 * each[0, 0] + 2.0 * each[0, 1] + 1.0 * each[1, 0]) / 6.0
    torch.testing.assert_close(labels.loss(y, answers), wanted)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 7.0])
def test_one_scale_over_all_labels_has_the_lowest_loss(sharpness: float, weighted: bool) -> None:
    z = (sharpness * (normal(1, NODES, 4) + LABELS.nan_to_num())).float()
    task = Multilabel(4, name="roc_auc", weights=(1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 2.0, 5.0) if weighted else ())
    found = minimize_scalar(lambda t: float(task.loss(z, LABELS, scale=t)), bounds=(1 / 32, 32), method="bounded")
    scale = task.fit_scale(z, LABELS)
    assert float(task.loss(z, LABELS, scale=scale)) <= found.fun + 1e-6
    weights = task._weigh(LABELS)
    there = fit_binary_scale_there(z, LABELS.nan_to_num(), weights)
    assert float(there) == pytest.approx(fit_binary_scale(z, LABELS.nan_to_num(), weights), rel=1e-4)
    assert fit_binary_scale(torch.full_like(z, inf), LABELS.nan_to_num(), weights) == 1.0


def test_weights_of_nodes_have_a_part_in_their_scale() -> None:
    z, weights = logits(3) + functional.one_hot(SOME), torch.arange(NODES) * 0.1
    found = fit_scale(z, SOME, weights)
    each = functional.cross_entropy

    def loss(t: float) -> float:
        return float((each(t * z, SOME, reduction="none") * weights).sum() / weights.sum())

    assert found == pytest.approx(
        minimize_scalar(loss, bounds=(1 / 32, 32), method="bounded", options={"xatol": 1e-7}).x, rel=1e-2
    )
    assert float(fit_scale_there(z, SOME, weights)) == pytest.approx(found, rel=1e-4)
    assert found != pytest.approx(fit_scale(z, SOME), rel=1e-2)


@pytest.mark.parametrize(
    ("task", "width"),
    [
        (Multiclass(3), 3),
        (Multiclass(3, name="roc_auc"), 3),
        (Multiclass(2, name="average_precision"), 2),
        (Binary(1, name="accuracy"), 1),
        (Binary(1, name="roc_auc"), 1),
        (Multilabel(4, name="f1_macro"), 4),
        (Multilabel(4, name="roc_auc"), 4),
        (REGRESSION, 4),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.name}" if isinstance(value, Multiclass) else str(value),
)
def test_an_ensemble_predicts_from_the_mean(task: Multiclass, width: int) -> None:
    """Of equal members as each of them; of unlike ones by what is averaged, and not by logits."""
    one, other = logits(width), 5.0 * normal(9, NODES, width, kind=torch.float32)
    alone, twice = task.predict(one), task.predict(task.average(one) + task.average(one), 2)
    if task.name in ("accuracy", "f1_macro"):
        assert twice.tolist() == alone.tolist()
    else:
        order = [alone.double().reshape(NODES, -1).argsort(0), twice.double().reshape(NODES, -1).argsort(0)]
        torch.testing.assert_close(*order)
    mixed = task.predict(task.average(one) + task.average(other), 2)
    mean = (task.average(one) + task.average(other)) / 2
    if isinstance(task, Regression):
        torch.testing.assert_close(mixed, (task.predict(one) + task.predict(other)) / 2, rtol=1e-5, atol=1e-5)
    elif task.name in ("accuracy", "f1_macro"):
        likeliest = mean.argmax(1) if width == 3 else (mean > 0.5).long()
        assert mixed.tolist() == (likeliest[:, 0] if width == 1 else likeliest).tolist()


def test_an_ensemble_of_two_classes_ranks_what_is_nearly_certain() -> None:
    """By the log odds of the mean, where differences of probabilities are rounded to -1 and 1."""
    task = Multiclass(2, name="roc_auc")
    for most in (-30.0, 30.0):
        members = [normal(seed, NODES, 2, kind=torch.float32) + torch.tensor([0.0, most]) for seed in (1, 2)]
        found = task.predict(task.average(members[0]) + task.average(members[1]), 2)
        assert found.unique().numel() == NODES
        log_both = torch.stack([each.double().log_softmax(1) for each in members]).logsumexp(0)
        torch.testing.assert_close(found.double(), log_both[:, 1] - log_both[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [inf, -inf, torch.nan])
def test_a_model_with_an_output_that_is_not_finite_is_the_worst(bad: float) -> None:
    cases: list[tuple[Multiclass, Tensor, float]] = [
        (Multiclass(3, name="roc_auc"), SOME, 0.0),
        (Multiclass(2, name="roc_auc"), YES, 0.0),
        (Binary(1, name="f1_micro"), YES, 0.0),
        (Multilabel(4, name="average_precision"), LABELS, 0.0),
        (Multilabel(4, name="f1_micro"), LABELS, 0.0),
        (REGRESSION, NUMBERS, inf),
        (replace(REGRESSION, name="r2", higher_is_better=True), NUMBERS, -inf),
    ]
    for task, targets, worst in cases:
        outputs = logits(task.outputs)
        outputs[3, 0] = bad
        predicted = task.predict(outputs).numpy()
        assert task.metric(predicted, targets.numpy()) == worst
        assert task.hits(predicted, targets.numpy()) is None
        draws = task.draws(predicted, targets.numpy())
        assert draws is not None
        assert np.isfinite(draws).any()
    assert Binary(1, name="accuracy").predict(torch.tensor([[bad]])).tolist() == [NO_CLASS]


def test_errors_are_spreads_over_the_same_samples() -> None:
    task = Multilabel(4, name="roc_auc")
    one, other = (task.draws(z.numpy(), LABELS.numpy()) for z in (logits(4), logits(4) + LABELS.nan_to_num()))
    assert one is not None
    assert other is not None
    assert task.error(0.5, NODES, one) == pytest.approx(np.std(one))
    assert task.error(0.5, NODES) == inf
    assert task.paired_spread(one, other) == pytest.approx(np.std(one - other))
    assert task.paired_spread(one, one) == 0.0
    assert task.paired_spread(one, None) == inf
    apart = np.sqrt(np.var(one) + (np.var(one) + np.var(other)) / 4)
    assert task.error_below_mean(0.5, [0.6, 0.5], NODES, one, [other, one]) == pytest.approx(apart)
    assert task.error_below_mean(0.5, [0.6, 0.5], NODES, one, [other, None]) == inf
    assert task.error_below_mean(0.5, [0.6], NODES, one) == inf
    assert Multiclass(2).error(0.5, 100, one) == 0.05
    assert (task.show(0.0123), REGRESSION.show(0.0123), task.show(inf)) == ("1.23 points", "0.0123", "not known")
    assert (task.show(0.0), task.show(2e-5), Multiclass(2).show(2e-5)) == ("0.00 points", "0.002 points", "0.00 points")


def test_accuracy_of_two_classes_has_others_beside_it() -> None:
    for task, z in ((Multiclass(2), logits(2)), (Binary(1, name="accuracy"), logits(1))):
        predicted, others = task.judge_both(task.predict_both(z).numpy(), YES.numpy())
        assert predicted.tolist() == task.predict(z).tolist()
        assert predicted.dtype == np.int64
        for name in ("roc_auc", "average_precision"):
            other = replace(task, name=name)
            assert others[name] == other.metric(other.predict(z).numpy(), YES.numpy())
    task = Multiclass(3)
    both = task.predict_both(logits(3)).numpy()
    assert task.judge_both(both, SOME.numpy()) == (pytest.approx(both), {})


def test_what_looks_at_no_node() -> None:
    rare = (np.arange(NODES) < 4).astype(np.int64)
    assert Multiclass(2).baseline(rare) == 0.9
    assert Multiclass(2, name="roc_auc").baseline(rare) == 0.5
    assert Binary(1, name="average_precision").baseline(rare) == 0.1
    assert Multilabel(4, name="roc_auc").baseline(LABELS.numpy()) == 0.5
    columns = [column[~np.isnan(column)] for column in NUMBERS.numpy().T]
    wanted = np.mean([np.abs(column - column.mean()).mean() for column in columns])
    assert REGRESSION.baseline(NUMBERS.numpy()) == pytest.approx(wanted)
    assert replace(REGRESSION, name="r2").baseline(NUMBERS.numpy()) == pytest.approx(0.0, abs=1e-12)


# ---- from a job and a graph


@pytest.mark.parametrize(
    ("fields", "targets", "classes", "message"),
    [
        ({"metric": "mae"}, "classes", 3, "task.metric = 'mae' is not for kind = 'multiclass'"),
        ({"metric": "accuracy"}, "multilabel", 3, "metric = 'accuracy' is not for kind = 'multilabel'"),
        ({"metric": "accuracy"}, "regression", 3, "metric = 'accuracy' is not for kind = 'regression'; there is: r2"),
        ({"label_smoothing": 0.1}, "multilabel", 3, "label_smoothing = 0.1 is for kind = 'multiclass'"),
        ({"class_weights": "balanced"}, "regression", 3, "a regression has no classes"),
        ({"targets": "none"}, "classes", 3, "task.targets = 'none' is for kind = 'regression'"),
        ({"kind": "binary"}, "classes", 3, "the graph has 3 classes; use 'multiclass'"),
        ({"kind": "regression"}, "classes", 3, "the graph has one class a node"),
    ],
)
def test_what_means_nothing_is_refused_by_name(
    fields: dict[str, Any], targets: Any, classes: int, message: str
) -> None:
    with pytest.raises(JobError) as error:
        resolve_task(TaskJob(**fields), targets, classes, "npz:graph.npz")
    assert message in str(error.value)


def test_auto_is_what_the_graph_has() -> None:
    def resolve(targets: Any, source: str = "npz:x", **fields: Any) -> TaskSpec:
        return resolve_task(TaskJob(**fields), targets, 2, source)

    assert resolve("classes") == TaskSpec("multiclass", "accuracy", 2)
    assert resolve("multilabel") == TaskSpec("multilabel", "roc_auc", 2)
    assert resolve("regression") == TaskSpec("regression", "r2", 2)
    assert resolve("classes", kind="binary") == TaskSpec("binary", "roc_auc", 1)
    assert resolve("classes", "ogb:ogbn-arxiv").ogb_set == "ogbn-arxiv"
    assert resolve("classes").values == {}
    assert resolve("classes", metric="f1_macro", label_smoothing=0.1).values == {
        "task.metric": "f1_macro",
        "task.label_smoothing": 0.1,
    }


def test_what_a_task_takes_from_training_nodes(tmp_path: Path) -> None:
    for kind in ("multiclass", "multilabel", "regression"):
        job = kinds.prepare_run(
            tmp_path / kind, kind, *(() if kind == "regression" else ("task.class_weights=balanced",))
        )
        with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
            y = graph.y(0, graph.nodes)[graph.role(0, graph.nodes) == Role.TRAIN]
            task = make_task(job.task, graph)
            assert make_task(job.task, graph) == task
            check_taken(task, y, graph)


def check_taken(task: Any, y: np.ndarray, graph: GraphFile) -> None:
    if isinstance(task, Regression):
        np.testing.assert_allclose(task.mean, np.nanmean(y, axis=0), rtol=1e-12)
        np.testing.assert_allclose(task.spread, np.nanstd(y, axis=0), rtol=1e-9)
        plain = make_task(TaskJob(targets="none"), graph)
        assert isinstance(plain, Regression)
        assert (plain.mean, plain.spread) == ((0.0,) * y.shape[1], (1.0,) * y.shape[1])
        mae = make_task(TaskJob(metric="mae"), graph)
        assert mae.unit == pytest.approx(np.nanstd(y, axis=0).mean())
        assert not mae.higher_is_better
    elif isinstance(task, Multilabel):
        no, yes = np.reshape(task.weights, (2, -1))
        np.testing.assert_allclose(no * (y == 0).sum(0), yes * (y == 1).sum(0))
    else:
        counts = np.bincount(y, minlength=graph.classes)
        np.testing.assert_allclose(task.weights, len(y) / (graph.classes * counts))


def test_a_metric_that_no_node_has_is_refused(tmp_path: Path) -> None:
    job = kinds.prepare_run(tmp_path, "multilabel", alike=True)
    said = "has no target of which the validation nodes have two different values"
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph, pytest.raises(RunError, match=said):
        make_task(job.task, graph)
