"""Runs on a graph whose signal is in the features of its edges alone: trained, souped, read, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.nn.models import GAT

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.bench.quality.parent import select_run
from gnnsoup_hpc.config import METHOD_NAMES, GraphJob, Job, ModelJob
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine.out_of_core.layers import GeneralLayerwise, make_layerwise
from gnnsoup_hpc.engine.out_of_core.neighbourhoods import NeighbourhoodInference
from gnnsoup_hpc.errors import GraphError, JobError
from gnnsoup_hpc.graph.graph import Preparation
from gnnsoup_hpc.io import export
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.model import Trained, read_model
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.imports import import_files
from gnnsoup_hpc.types import Role
from tests import runs, tiny
from tests.comms import run_ranks
from tests.data.test_edge_attr import merge_dense
from tests.ranks.souping import run_case
from tests.soup.test_weighted_runs import open_model

NODES, TYPES, WIDTH = 400, 4, 2


def marked() -> dict[str, np.ndarray]:
    """A node's class is the type of the one in-neighbour, of two of each type, whose edge is marked."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.arange(NODES) % TYPES)
    source = np.hstack([rng.choice(np.flatnonzero(kind == each), (NODES, 2)) for each in range(TYPES)])
    mark = np.arange(2 * TYPES) == rng.integers(0, 2 * TYPES, (NODES, 1))
    attr = rng.normal(0, 0.1, (*mark.shape, WIDTH)) + mark[..., None] * np.eye(WIDTH)[0]
    edges = np.stack([source.ravel(), np.repeat(np.arange(NODES), 2 * TYPES)])
    x = np.eye(TYPES)[kind].astype(np.float32)
    return {"x": x, "y": kind[source[mark]], "edge_index": edges, "edge_attr": attr.reshape(-1, WIDTH)}


HOW = ("graph.undirected=false", "model.layers=1", "train.learning_rate=0.2", "train.ingredients=2")
OPTIONS = {"kind": "gat", "heads": 4}


def job_in(folder: Path, *overrides: str, **options: Any) -> Job:
    tiny.write_job(folder, **(OPTIONS | options))
    np.savez(folder / "tiny.npz", **marked())
    return runs.load_job(folder, "graph.edge_attr=use", *HOW, *overrides)


def train_run(folder: Path, *overrides: str, **options: Any) -> Job:
    job = job_in(folder, *overrides, **options)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    return job


def accuracy(job: Job) -> float:
    return ingredient_store.read(RunDir.of(job).ingredient(0)).validation_accuracy


@pytest.fixture(scope="module")
def souped(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return runs.soup_run(train_run(tmp_path_factory.mktemp("marked")))


def test_features_of_edges_are_what_is_learned_from(souped: Job, tmp_path: Path) -> None:
    """Without them a fourth of the nodes is right."""
    assert accuracy(souped) > 0.9
    assert accuracy(train_run(tmp_path, "graph.edge_attr=ignore", "train.ingredients=1")) < 0.4


def test_a_run_is_souped_and_reported(souped: Job) -> None:
    found = read_contents(RunDir.of(souped).root)
    assert {soup.method for soup in found.soups} == set(METHOD_NAMES)
    assert min(soup.validation_accuracy for soup in found.soups) > 0.9
    assert "edge_attr is used (graph.edge_attr = 'use')" in show_run(found)
    origin = ingredient_store.origin(RunDir.of(souped).ingredient(0))
    assert origin["model.edge_features"] == WIDTH


def test_ranks_make_what_one_makes(souped: Job, tmp_path: Path) -> None:
    alone = run_case(runs.SERIAL, souped, "pls")
    for each in run_ranks(2, lambda comm: run_case(comm, souped, "pls", home=tmp_path / str(comm.rank))):
        np.testing.assert_allclose(each.alpha, alone.alpha, atol=1e-6)
        assert each.metrics == alone.metrics


def test_layers_and_neighbourhoods_are_the_whole_graph(souped: Job, tmp_path: Path) -> None:
    with open_model(souped) as (graph, net):
        state, wanted = net.init_state(3), np.arange(0, graph.nodes, 2)
        whole = net.forward(state, loader.load_whole(graph, Role.VALIDATION).graph)
        layers = make_layerwise(graph, net, 100_000, tmp_path, runs.CPU, wanted)
        assert isinstance(layers, GeneralLayerwise)
        for way in (layers, NeighbourhoodInference(graph, net, 300_000, runs.CPU, wanted)):
            found = torch.cat([scores for _, scores in way.scores(state)])
            torch.testing.assert_close(found, whole[wanted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        ("train.batch=cluster", "train.clusters=3", "model.kind=gatv2"),
        ("train.batch=neighbour", "train.sampler=own", "train.fanout=[8]", "train.batch_size=100"),
    ],
    ids=["cluster", "neighbour"],
)
def test_batches_of_parts_and_samples(how: tuple[str, ...], tmp_path: Path) -> None:
    """Of which a few edges are left out."""
    also = ("train.ingredients=1", "train.drop_edges=0.1", "partition.parts=4", "soup.pls.union=2")
    assert accuracy(train_run(tmp_path, *also, *how)) > 0.8


def load_script(path: Path) -> Any:
    """The script of an export as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def score_by_pyg(job: Job) -> np.ndarray:
    """Scores of the first ingredient by PyG's class, on edges that are merged one by one."""
    arrays = marked()
    module = GAT(TYPES, 16, 1, TYPES, heads=4, edge_dim=WIDTH)
    module.load_state_dict(ingredient_store.read(RunDir.of(job).ingredient(0)).state, strict=True)
    merged = torch.from_numpy(merge_dense(arrays["edge_index"], arrays["edge_attr"], NODES, False, "keep"))
    row, column = (~merged.isnan().any(2)).nonzero().t()
    x = torch.as_tensor((arrays["x"] - arrays["x"].mean(0)) / arrays["x"].std(0)).float()
    with torch.no_grad():
        return module.eval()(x, torch.stack([column, row]), edge_attr=merged[row, column].float()).numpy()


def test_scores_are_pygs_however_they_are_asked_for(
    souped: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From Python, by commands on the run's graph and on another file of it, and by the script of an export."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", None)
    arrays, root = marked(), RunDir.of(souped).root
    given = {name: arrays[name] for name in ("x", "edge_index", "edge_attr")}
    alone = read_model(root / "ingredients" / "0000.h5").predict(**given)
    np.testing.assert_allclose(alone, score_by_pyg(souped), rtol=1e-3, atol=1e-3)
    scores = read_model(root / "soups" / "ls.h5").predict(**given)
    words = ["predict", str(root), "--method", "ls", "--to"]
    assert main([*words, "own.npy"]) == 0
    assert main([*words, "other.npy", "--graph", souped.graph.source]) == 0
    assert main(["export", str(root), "--method", "ls", "--to", "soup.pt"]) == 0
    script = load_script(tmp_path / "soup.py")
    for found in (np.load("own.npy"), np.load("other.npy"), script.predict(**given)):
        np.testing.assert_allclose(found, scores, rtol=1e-3, atol=1e-3)
    with pytest.raises(SystemExit, match="the model takes an edge_attr, unlike this graph"):
        script.predict(given["x"], given["edge_index"])
    with pytest.raises(SystemExit, match=r"edge_attr has shape \(3200, 1\): give as many finite numbers an edge"):
        script.predict(given["x"], given["edge_index"], edge_attr=given["edge_attr"][:, :1])


@pytest.mark.parametrize("self_loops", ["keep", "remove", "add"])
@pytest.mark.parametrize("way", [True, False])
def test_a_script_merges_as_the_package_does(way: bool, self_loops: str, tmp_path: Path) -> None:
    """Edges that are there several times, turned round, with loops."""
    rng, nodes = np.random.default_rng(0), 12
    edges, attr = rng.integers(0, nodes - 1, (2, 50)), rng.normal(size=(50, WIDTH))
    model = make_model(ModelJob(kind="gat", layers=1), TYPES, TYPES, edge_features=WIDTH)
    graph = GraphJob(undirected=way, reverse=way, self_loops=self_loops)
    trained = Trained(model, model.init_state(0), Preparation("none", np.empty(0), np.empty(0)), graph)
    export.write(tmp_path / "soup.pt", trained, {}, "")
    found = load_script(tmp_path / "soup.py").prepare_edges(edges, nodes, None, attr)
    merged = trained.edges(edges, nodes)
    torch.testing.assert_close(found["edge_index"], merged, rtol=0, atol=0)
    _, ours = trained.edge_values(edges, None, attr, merged, nodes)
    wanted = merge_dense(edges[::-1] if way else edges, attr, nodes, way, self_loops)[tuple(merged.flip(0).numpy())]
    for each in (ours, found["edge_attr"]):
        np.testing.assert_allclose(each, wanted, rtol=1e-6, atol=1e-7)


def test_what_is_no_feature_is_refused_where_one_predicts(souped: Job, tmp_path: Path) -> None:
    arrays, root = marked(), RunDir.of(souped).root
    soup = read_model(root / "soups" / "ls.h5")
    with pytest.raises(GraphError, match="trained with features of edges: give edge_attr, one of each edge"):
        soup.predict(arrays["x"], arrays["edge_index"])
    with pytest.raises(GraphError, match="takes no weights of edges: leave it out"):
        soup.predict(arrays["x"], arrays["edge_index"], np.ones(len(arrays["edge_attr"])), arrays["edge_attr"])
    for wrong in (arrays["edge_attr"][:-1], arrays["edge_attr"][:, :1], np.full_like(arrays["edge_attr"], np.inf)):
        with pytest.raises(GraphError, match=r"give 2 finite numbers an edge, \(3200, 2\)"):
            soup.predict(arrays["x"], arrays["edge_index"], edge_attr=wrong)


def test_another_graph_has_as_many(souped: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "other.npz", **marked() | {"edge_attr": marked()["edge_attr"][:, :1]})
    words = ["predict", str(RunDir.of(souped).root), "--to", str(tmp_path / "other.npy")]
    assert main([*words, "--graph", f"npz:{tmp_path / 'other.npz'}"]) == 1
    assert "1 features an edge, and the run's models were trained on 2" in capsys.readouterr().err


def test_checkpoints_of_pygs_class_are_imported(souped: Job, tmp_path: Path) -> None:
    module = GAT(TYPES, 16, 1, TYPES, heads=4, edge_dim=WIDTH)
    module.load_state_dict(ingredient_store.read(RunDir.of(souped).ingredient(0)).state, strict=True)
    torch.save(module.state_dict(), tmp_path / "a.pt")
    job = job_in(tmp_path, "train.ingredients=1")
    runs.prepare(job, runs.ALONE, runs.QUIET)
    import_files(job, [tmp_path / "a.pt"], "", runs.ALONE, runs.CPU, runs.QUIET)
    assert accuracy(job) == accuracy(souped)


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "gcn": (
        ("model.kind=gcn", "model.heads=1"),
        "model.kind = 'gcn' takes no features of edges, which gat, gatv2, pna",
    ),
    "gin": (("model.kind=gin", "model.heads=1"), "model.kind = 'gin' takes no features of edges"),
    "sparse": (("model.takes=sparse",), "model.takes = 'sparse' gives a matrix, which has no features of edges"),
    "align": (("soup.align=weights",), "of plain options and without features of edges"),
}


@pytest.mark.parametrize(("overrides", "said"), REFUSED.values(), ids=REFUSED)
def test_what_takes_none_is_refused(overrides: tuple[str, ...], said: str, tmp_path: Path) -> None:
    tiny.write_job(tmp_path, **OPTIONS)
    with pytest.raises(JobError, match=said):
        load_job(str(tmp_path / tiny.JOB_FILE), ["graph.edge_attr=use", *overrides])


def test_a_comparison_with_programs_without_them_is_refused(souped: Job) -> None:
    with pytest.raises(JobError, match="programs that take no features of edges, which the run's graph has"):
        select_run(souped, print)
