"""Means of ingredients: exact, and the same in memory and layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.evaluation.averages import evaluate_averages
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import EvalResult
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role, State
from tests import runs
from tests.comms import CheckingComm, run_ranks

GROUPS = [(0,), (1,), (0, 1), (2, 0, 1)]


@contextmanager
def open_evaluator(job: Job, memory: int = 1 << 30, comm: Comm = SERIAL) -> Iterator[Evaluator]:
    run = RunDir.of(job)
    with graph_store.open_graph(run.graph, job) as graph:
        model = make_model(job.model, graph.features, graph.classes)
        yield Evaluator(graph, model, EvalSettings(runs.CPU, memory, run.root, comm=comm))


def evaluate(job: Job, groups: Sequence[tuple[int, ...]], comm: Comm = SERIAL) -> list[EvalResult]:
    with open_evaluator(job, comm=comm) as evaluator:
        return evaluate_averages(RunDir.of(job), evaluator, groups)


def read_state(job: Job, index: int) -> State:
    return ingredient_store.read(RunDir.of(job).ingredient(index)).state


def test_a_midpoint_has_the_accuracy_and_loss_of_the_mean_of_weights(trained: Job) -> None:
    one, other = read_state(trained, 0), read_state(trained, 1)
    middle = {name: 0.5 * (tensor + other[name]) for name, tensor in one.items()}
    (found,) = evaluate(trained, [(0, 1)])
    with graph_store.open_graph(RunDir.of(trained).graph, trained) as graph:
        batch = loader.load_whole(graph, Role.VALIDATION)
        model = make_model(trained.model, graph.features, graph.classes)
        logits = model.forward(middle, batch.graph)[batch.seeds]
    assert found.accuracy == float((logits.argmax(1) == batch.targets).double().mean())
    assert found.loss == pytest.approx(float(functional.cross_entropy(logits, batch.targets)), rel=1e-5)


def test_one_ingredient_has_the_accuracy_that_its_file_says(trained: Job) -> None:
    found = evaluate(trained, [(index,) for index in range(3)])
    files = [ingredient_store.read(RunDir.of(trained).ingredient(index)) for index in range(3)]
    assert [result.accuracy for result in found] == [file.validation_accuracy for file in files]


@pytest.mark.parametrize("kind", ["sage", "gat"])
def test_layer_by_layer_gives_the_same_figures(
    kind: str, trained: Job, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = trained if kind == "sage" else runs.train_run(tmp_path_factory.mktemp("gat"), kind="gat", heads=2)
    with open_evaluator(job) as whole, open_evaluator(job, memory=300_000) as streamed:
        assert not streamed.fits
        assert whole.fits
        found = (evaluate_averages(RunDir.of(job), evaluator, GROUPS) for evaluator in (whole, streamed))
        for one, other in zip(*found, strict=True):
            assert one.accuracy == other.accuracy
            assert one.loss == pytest.approx(other.loss, rel=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_give_the_same_to_the_bit(trained: Job, size: int) -> None:
    alone = evaluate(trained, GROUPS)
    assert run_ranks(size, lambda comm: evaluate(trained, GROUPS, CheckingComm(comm))) == [alone] * size


def test_figures_do_not_depend_on_threads(trained: Job) -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(evaluate(trained, GROUPS))
    torch.set_num_threads(1)
    assert found[0] == found[1]
