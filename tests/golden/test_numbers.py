"""Files of a regression, written once by make.py: today's readers read in them what was written then."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.evaluation.tasks import Regression, make_task
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.model import read_model
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests.golden.make import NUMBERS, number

RUN = RunDir(NUMBERS)
NET = Architecture("gat", 2, features=3, hidden=4, classes=2, heads=2, norm="layer")
MEAN, SPREAD = (5800005.0625, 2.625), (5.057868251546298, 1.71846588560844)


def test_files_are_small_and_of_the_versions_that_have_classes_too() -> None:
    for path, version in ((RUN.graph, 2), (RUN.ingredient(0), 1), (RUN.soup("pls"), 1), (RUN.diagnosis, 1)):
        assert path.stat().st_size < 60_000
        with h5py.File(path) as file:
            assert file.attrs["format_version"] == version


def test_graph() -> None:
    job, source = jobs.load(str(RUN.job)), number()
    with graph_store.open_graph(RUN.graph, job, verify=True) as graph:
        assert (graph.targets, graph.classes) == ("regression", 2)
        assert graph.sha256 == "77eecbea2b67983de5815aacc36bf1c6e4bfe4f4f12c72dc44e1206f6b0af157"
        assert graph.made_with["task.kind"] == "regression"
        ids = graph.file["nodes/original_id"][:]
        np.testing.assert_array_equal(graph.y(0, graph.nodes), source["y"][ids])
        task = make_task(job.task, graph)
        assert isinstance(task, Regression)
        assert (task.name, task.mean, task.spread) == ("mae", pytest.approx(MEAN), pytest.approx(SPREAD))
        initial = states.sha256(ingredient_store.read_initial(RUN.initial, NET, 0))
        origin = Origin.of(job, NET, graph, initial, 0)
        assert ingredient_store.read(RUN.ingredient(0), origin).index == 0


def test_what_models_were_judged_by() -> None:
    one, pls = ingredient_store.read(RUN.ingredient(0)), soup_store.read(RUN.soup("pls"))
    assert (one.validation_accuracy, one.test_accuracy) == (2.4613847263490465, 2.118249815041679)
    assert pls.test_accuracy == 2.0240890779062983
    for judged in (one.judged, pls.judged):
        assert (judged.metric, judged.target_mean, judged.target_spread) == ("mae", MEAN, SPREAD)
        assert judged.test_draws is not None
        assert judged.test_draws.shape == (200,)
    assert one.judged.test_draws is not None
    assert one.judged.test_draws[:2].tolist() == pytest.approx([2.16913812, 2.05142778])
    assert read_model(RUN.soup("pls")).target_mean == MEAN
    found = diagnosis_store.read(RUN.diagnosis)
    assert (found.metric, found.best) == ("mae", "0001")
    assert found.variants[0].errors == {"0000": 0.1581911484174912, "all": 0.1581911484174912}
