"""trunk.h5 of version 1 and ingredients that branched from it, written once by make.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.io import files, states
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests.golden.make import TRUNK
from tests.golden.test_v1 import NAMES, NET

RUN = RunDir(TRUNK)
RECIPE = "8358ff61be1db52e3b501b5ed5309d5888a837d35e3ab5147e08aa25fcc1492b"


def test_the_file_is_whole_small_and_of_version_1() -> None:
    assert RUN.trunk.stat().st_size < 60_000
    with files.open_file(RUN.trunk, ingredient_store.TRUNK, 1) as file:
        assert file.attrs["format_version"] == 1
        assert file.attrs["recipe"] == RECIPE
        assert file["provenance"].attrs["host"] == "golden"


def test_trunk_and_ingredients_are_those_of_the_job() -> None:
    job = jobs.load(str(RUN.job))
    assert job.train.trunk_epochs == 2
    initial = states.sha256(ingredient_store.read_initial(RUN.initial, NET, 0))
    with graph_store.open_graph(RUN.graph, job) as graph:
        of = replace(Origin.of(job, NET, graph, initial, None), engine="torch")  # the first version's
        assert of.recipe == RECIPE
        trunk = ingredient_store.read_trunk(RUN.trunk, of)
        origins = [Origin.of(job, NET, graph, initial, index, states.sha256(trunk.state)) for index in range(2)]
    assert list(trunk.state) == NAMES
    assert trunk.state["convs.1.bias"].tolist() == pytest.approx([-0.01, 0.01], abs=1e-6)
    assert [epoch.epoch for epoch in trunk.history] == [1, 2]
    assert [epoch.loss for epoch in trunk.history] == pytest.approx([0.99865562, 0.98054969], abs=1e-7)
    for index, origin in enumerate(origins):
        found = ingredient_store.read(RUN.ingredient(index), origin)
        assert found.hyperparameters.trunk_epochs == 2
        assert [epoch.epoch for epoch in found.history] == [1, 2, 3]
