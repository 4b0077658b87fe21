"""Files of format version 1, written once by make.py: today's readers read in them what was written then."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.analysis.report import build as report_build
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.verdicts import verdicts
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import files, states
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io import summary as gathered
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.model import read_model
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from tests.golden.make import NODES, ring

RUN = RunDir(Path(__file__).resolve().parent / "v1")
NET = Architecture("gat", 2, features=3, hidden=4, classes=2, heads=2, norm="layer")
KINDS = {
    RUN.graph: graph_store.KIND,
    RUN.initial: ingredient_store.INITIAL,
    RUN.ingredient(0): ingredient_store.KIND,
    RUN.ingredient(1): ingredient_store.KIND,
    RUN.gathered: gathered.KIND,
    RUN.soup("gis"): soup_store.KIND,
    RUN.soup("pls"): soup_store.KIND,
    RUN.soup("ensemble"): soup_store.KIND,
    RUN.diagnosis: diagnosis_store.KIND,
    RUN.report: report_build.KIND,
}
NAMES = [
    *("convs.0.att_src", "convs.0.att_dst", "convs.0.bias", "convs.0.lin.weight"),
    *("convs.1.att_src", "convs.1.att_dst", "convs.1.bias", "convs.1.lin.weight"),
    *("norms.0.weight", "norms.0.bias"),
]
GRAPH_SHA256 = "6d8293933a07b56c602f57120be2a10656a6f7743ae54d62730d4486b51c7dfa"


@pytest.fixture(scope="module")
def job() -> Job:
    return jobs.load(str(RUN.job))


@pytest.mark.parametrize(("path", "kind"), KINDS.items(), ids=lambda value: getattr(value, "name", None))
def test_every_file_is_whole_small_and_of_version_1(path: Path, kind: str) -> None:
    assert path.stat().st_size < 60_000
    with files.open_file(path, kind, 1) as file:
        assert file.attrs["format_version"] == 1
        assert file.attrs["format"] == f"gnnsoup_hpc/{kind}"
        assert file.attrs["creator_version"] == "0.1.0"
        assert file["provenance"].attrs["host"] == "golden"


def test_job(job: Job) -> None:
    assert job.name == "golden"
    assert job.soup.methods == ("gis", "pls", "ensemble")
    assert job.train.vary.learning_rate == (0.05, 0.1)


def test_graph(job: Job) -> None:
    source = ring()
    with graph_store.open_graph(RUN.graph, job, verify=True) as graph:
        assert (graph.nodes, graph.edges, graph.features, graph.classes, graph.parts) == (NODES, 45, 3, 2, 4)
        assert graph.sha256 == GRAPH_SHA256
        assert graph.ptr.tolist() == [0, 6, 12, 18, 24]
        assert graph.validation_counts.tolist() == [2, 2, 2, 2]
        assert graph.cut["edge_cut"] == 3
        assert graph.cut["undirected_edges"] == 22
        assert graph.preparation.kind == "standardise"
        np.testing.assert_allclose(graph.preparation.mean, [7 / 24, 11.5 / 24, 1.0], rtol=1e-6)
        assert graph.preparation.scale[2] == 1.0
        assert graph.measurement["seconds"] > 0.0

        ids = graph.file["nodes/original_id"][:]
        assert ids.tolist() == [*range(11, 23), *range(11), 23]
        assert graph.y(0, NODES).tolist() == source["y"][ids].tolist()
        for role, name in ((Role.TRAIN, "train_idx"), (Role.VALIDATION, "valid_idx"), (Role.TEST, "test_idx")):
            assert sorted(ids[graph.role(0, NODES) == role].tolist()) == source[name].tolist()

        whole = loader.load_whole(graph, Role.VALIDATION)
        assert whole.graph.adjacency.indices.tolist()[:6] == [1, 22, 0, 2, 1, 3]
        x = whole.graph.x.numpy() * graph.preparation.scale + graph.preparation.mean
        np.testing.assert_allclose(x, source["x"][ids], atol=1e-6)
        assert len(whole.targets) == 8

        union = loader.load_union(graph, [3, 1], Role.VALIDATION)
        assert union.graph.x.shape == (12, 3)
        assert union.targets.tolist() == [0, 0, 0, 1]


def test_initial_state() -> None:
    state = ingredient_store.read_initial(RUN.initial, NET, 0)
    assert list(state) == NAMES
    assert state["convs.0.lin.weight"][0].tolist() == pytest.approx([-0.08216102, 0.24498363, -0.27979493], abs=1e-7)
    assert state["convs.1.att_src"][0, 1].tolist() == pytest.approx([-0.25205272, 0.91649103], abs=1e-7)
    assert state["norms.0.weight"].tolist() == [1.0] * 4


def test_ingredients(job: Job) -> None:
    initial = states.sha256(ingredient_store.read_initial(RUN.initial, NET, 0))
    with graph_store.open_graph(RUN.graph, job) as graph:
        assert graph.sha256 == GRAPH_SHA256
        origins = [Origin.of(job, NET, graph, initial, index) for index in range(2)]
    found = [ingredient_store.read(RUN.ingredient(index), origins[index]) for index in range(2)]
    assert [ingredient.index for ingredient in found] == [0, 1]
    assert [ingredient.validation_accuracy for ingredient in found] == [6 / 8, 7 / 8]
    assert [ingredient.test_accuracy for ingredient in found] == [4 / 7, 5 / 7]
    assert [ingredient.best_epoch for ingredient in found] == [1, 2]
    assert found[1].hyperparameters == Hyperparameters(3, 0.1, 0.0, 0.0)
    assert found[1].stopped == "all epochs done"
    assert [epoch.epoch for epoch in found[0].history] == [1, 2, 3]
    assert [epoch.loss for epoch in found[0].history] == pytest.approx([0.99865562, 0.81833851, 0.66432828], abs=1e-7)
    assert list(found[0].state) == NAMES
    assert found[0].state["convs.1.bias"].tolist() == pytest.approx([-0.04999999, 0.04999999], abs=1e-7)


def test_stack_of_ingredients() -> None:
    with files.open_file(RUN.gathered, gathered.KIND, 1) as file:
        assert file["names"].asstr()[:].tolist() == ["0000", "0001"]
        assert list(file["state"]) == NAMES
        for name in NAMES:
            rows = [ingredient_store.read(RUN.ingredient(index)).state[name].numpy() for index in range(2)]
            assert np.array_equal(file["state"][name][:], np.stack(rows))


def test_soups() -> None:
    gis, pls, ensemble = (soup_store.read(RUN.soup(name)) for name in ("gis", "pls", "ensemble"))
    assert gis.mixture.alpha.tolist() == [[0.0, 1.0]]
    assert gis.counts == {"forward_whole": 5, "forward_union": 0, "backward_whole": 0, "backward_union": 0}
    assert (gis.validation_accuracy, gis.test_accuracy) == (7 / 8, 5 / 7)
    assert pls.mixture.groups == ("layer 0", "layer 1")
    assert pls.mixture.by == "layer"
    assert pls.mixture.alpha.flatten().tolist() == pytest.approx([0.33270485, 0.66729515, 0.28771237, 0.71228763])
    assert [step.learning_rate for step in pls.mixture.history] == pytest.approx([10.0, 8.53553391])
    assert pls.ingredients == ("0000", "0001")
    assert pls.left_out == ()
    assert (ensemble.mixture.of, ensemble.state) == ("predictions", None)
    assert {gis.ingredients_sha256, pls.ingredients_sha256} == {ensemble.ingredients_sha256}

    found = read_model(RUN.soup("pls"))
    assert found.architecture == NET
    found.architecture.to_module().load_state_dict(found.state, strict=True)
    assert found.state["convs.1.bias"].tolist() == pytest.approx([-0.15607627, 0.15607627], abs=1e-7)


def test_run_can_be_reported_again() -> None:
    run = read_contents(RUN.root)
    assert [soup.method for soup in run.soups] == ["gis", "pls", "ensemble"]
    assert run.test_nodes == 7
    assert (run.test_classes, run.split, run.notes) == ((4, 3), "", ())
    said = [line for line in verdicts(run) if line.startswith(("The pls", "The ensemble"))]
    assert len(said) == 2
    assert all(
        line.endswith("as if on different nodes: the soup's file, of an older version, lacks the pairs.")
        for line in said
    )


def test_diagnosis() -> None:
    found = diagnosis_store.read(RUN.diagnosis)
    assert (found.best, found.nodes, found.graph_sha256) == ("0001", 8, GRAPH_SHA256)
    assert [ingredient.alone.accuracy for ingredient in found.ingredients] == [6 / 8, 7 / 8]
    assert [ingredient.learning_rate for ingredient in found.ingredients] == [0.05, 0.1]
    (way,) = found.variants
    assert (way.variant, way.setting, list(way.halfway)) == ("as trained", "", ["0000"])
    assert way.mean.accuracy == 5 / 8
    assert way.mean.loss == pytest.approx(0.58266540)


def test_report() -> None:
    with h5py.File(RUN.report) as file:
        assert file["methods/method"].asstr()[:].tolist() == ["gis", "pls", "ensemble"]
        assert file["methods/test_accuracy"][:].tolist() == [5 / 7, 4 / 7, 4 / 7]
        assert file["methods/models_at_inference"][:].tolist() == [1, 1, 2]
        assert file["ingredients/ingredient"].asstr()[:].tolist() == ["0000", "0001"]
        assert file["phases/phase"].asstr()[:].tolist() == ["prepare", "train", "soup"]
        assert file["histories/pls/step"][:].tolist() == [1, 2]
        assert "24 nodes, 45 directed entries" in file.attrs["graph"]
        assert file["verdicts"].asstr()[0].startswith("The best ingredient on validation is 0001")
