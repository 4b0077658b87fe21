"""Weighing means of ingredients: exact, and the same in memory and layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.evaluation.averages import AverageSpec
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from tests import runs

LOADS = [AverageSpec((0,)), AverageSpec((1,)), AverageSpec((0, 1)), AverageSpec((2, 0, 1))]


def test_a_midpoint_has_the_accuracy_and_loss_of_the_mean_of_weights(stock: Job) -> None:
    states = [ingredient_store.read(RunDir.of(stock).ingredient(index)).state for index in range(2)]
    middle = {name: 0.5 * (tensor + states[1][name]) for name, tensor in states[0].items()}
    with runs.station(stock) as station:
        (found,) = station.weighed([AverageSpec((0, 1))])
        view = loader.load_whole(station.graph, Role.VALIDATION)
        scores = station.architecture.forward(middle, view.graph)[view.nodes]
    assert found.accuracy == float((scores.argmax(1) == view.labels).double().mean())
    assert found.loss == pytest.approx(float(functional.cross_entropy(scores, view.labels)), rel=1e-5)


def test_one_ingredient_weighs_what_its_file_says(stock: Job) -> None:
    with runs.station(stock) as station:
        found = station.weighed([AverageSpec((index,)) for index in range(3)])
    files = [ingredient_store.read(RunDir.of(stock).ingredient(index)) for index in range(3)]
    assert [judgement.accuracy for judgement in found] == [file.validation_accuracy for file in files]


@pytest.mark.parametrize("kind", ["sage", "gat"])
def test_layer_by_layer_gives_the_same_figures(kind: str, stock: Job, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = stock if kind == "sage" else runs.stocked(tmp_path_factory.mktemp("gat"), kind="gat", heads=2)
    with runs.station(job) as whole, runs.station(job, memory=1) as streamed:
        assert streamed.streams
        assert not whole.streams
        for one, other in zip(whole.weighed(LOADS), streamed.weighed(LOADS), strict=True):
            assert one.accuracy == other.accuracy
            assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_weighing_does_not_depend_on_threads(stock: Job) -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with runs.station(stock) as station:
            found.append(station.weighed(LOADS))
    torch.set_num_threads(1)
    assert found[0] == found[1]
