"""Runs on a graph whose edges have weights: trained, souped, read, on ranks, within little memory; what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.nn.models import GCN

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.bench.quality.parent import select_run
from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine.out_of_core import first_aggregation, layers
from gnnsoup_hpc.engine.out_of_core.layers import GeneralLayerwise, Layerwise, SumsLayerwise, make_layerwise
from gnnsoup_hpc.errors import GraphError, JobError, RunError
from gnnsoup_hpc.graph.subgraph import MEAN, NORMALISED_SUM
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.model import read_model
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.models.registry import make_model_for, read_record
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.methods.learned import PartitionLearned
from gnnsoup_hpc.types import Role
from tests import runs, tiny
from tests.comms import run_ranks
from tests.io.test_export import predict_alone
from tests.ranks.souping import run_case

NODES, CLASSES = 600, 4


def weighted(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights carry the signal: 1 inside a class, 0.01 across, and three in four edges go across."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, NODES)
    members = [np.flatnonzero(y == label) for label in range(CLASSES)]
    source = rng.integers(0, NODES, 10 * NODES)
    inside = rng.random(len(source)) < 0.25
    target = np.where(inside, [rng.choice(members[y[node]]) for node in source], rng.integers(0, NODES, len(source)))
    x = rng.normal(size=(NODES, tiny.FEATURES)) + 0.3 * y[:, None]
    weight = np.where(y[source] == y[target], 1.0, 0.01)
    return {"x": x.astype(np.float32), "y": y, "edge_index": np.stack([source, target]), "edge_weight": weight}


def job_in(folder: Path, kind: str, *overrides: str) -> Job:
    tiny.write_job(folder, kind=kind)
    np.savez(folder / "tiny.npz", **weighted())
    words = ("graph.edge_weight=use", "train.epochs=40", *overrides)
    return load_job(str(folder / tiny.JOB_FILE), [f"runs={folder / 'runs'}", *words])


def train_run(folder: Path, kind: str, *overrides: str) -> Job:
    job = job_in(folder, kind, *overrides)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    return job


@contextmanager
def open_model(job: Job) -> Iterator[tuple[GraphFile, Model]]:
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        yield graph, make_model_for(graph, job.model, graph.classes)


@pytest.fixture(scope="module", params=["gcn", "sage"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return train_run(tmp_path_factory.mktemp(request.param), request.param)


def test_a_run_is_souped_and_reported(trained: Job, capsys: pytest.CaptureFixture[str]) -> None:
    runs.soup_run(trained)
    found = read_contents(RunDir.of(trained).root)
    assert {soup.method for soup in found.soups} == set(METHOD_NAMES)
    assert min(soup.validation_accuracy for soup in found.soups) > 0.75
    assert "edge_weight is used (graph.edge_weight = 'use')" in show_run(found)
    origin = ingredient_store.origin(RunDir.of(trained).ingredient(0))
    assert origin["model.weighted"]
    assert origin["train.engine"] == "compiled"


def test_an_ingredient_is_pygs_model(trained: Job) -> None:
    """By its own weights on the source's edges: what is said of its accuracy is what PyG's class has."""
    if trained.model.kind != "gcn":
        pytest.skip("PyG has no weighted mean")
    arrays = weighted()
    found = ingredient_store.read(RunDir.of(trained).ingredient(0))
    module = GCN(tiny.FEATURES, trained.model.hidden, trained.model.layers, CLASSES).eval()
    module.load_state_dict(found.state, strict=True)
    edges = torch.as_tensor(arrays["edge_index"])
    matrix = torch.zeros(NODES, NODES, dtype=torch.float64)
    matrix.index_put_((edges[0], edges[1]), torch.as_tensor(arrays["edge_weight"]), accumulate=True)
    matrix = torch.where(matrix == 0, matrix.t(), matrix)
    ends = matrix.nonzero().t()
    x = (arrays["x"] - arrays["x"].mean(0)) / arrays["x"].std(0)
    with torch.no_grad():
        right = module(torch.as_tensor(x), ends, matrix[tuple(ends)].float()).argmax(1).numpy() == arrays["y"]
    with open_model(trained) as (graph, _):
        ids = graph.original_ids(0, graph.nodes)
        mine = ids[graph.role(0, graph.nodes) == Role.VALIDATION]
    assert right[mine].mean() == pytest.approx(found.validation_accuracy, abs=1.5 / len(mine))


def test_weights_are_what_is_learned_from(tmp_path: Path) -> None:
    """Without them hardly more than a fourth of the nodes is right."""
    accuracies = {}
    for way in ("use", "ignore"):
        job = train_run(tmp_path / way, "gcn", f"graph.edge_weight={way}", "train.ingredients=1")
        accuracies[way] = ingredient_store.read(RunDir.of(job).ingredient(0)).validation_accuracy
    assert accuracies["use"] > accuracies["ignore"] + 0.2


def test_ranks_make_what_one_makes(trained: Job, tmp_path: Path) -> None:
    for case in ("ls", "pls", "gis"):
        alone = run_case(runs.SERIAL, trained, case)
        for each in run_ranks(2, lambda comm, case=case: run_case(comm, trained, case, home=tmp_path / str(comm.rank))):
            np.testing.assert_allclose(each.alpha, alone.alpha, atol=1e-6)
            assert each.metrics == alone.metrics


@pytest.mark.parametrize("memory", [1 << 30, 100_000, 1], ids=["plenty", "some", "none"])
@pytest.mark.parametrize("way", [make_layerwise, GeneralLayerwise], ids=["chosen", "general"])
def test_layer_by_layer_is_the_whole_graph(
    trained: Job, way: Callable[..., Layerwise], memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "SLAB_BYTES", (4000, 1 << 26))
    monkeypatch.setattr(layers, "PIECE_ENTRIES", 500)
    with open_model(trained) as (graph, net):
        state, wanted = net.init_state(3), np.arange(0, graph.nodes, 2)
        ways = way(graph, net, memory, tmp_path, runs.CPU, wanted)
        assert isinstance(ways, SumsLayerwise if way is make_layerwise else GeneralLayerwise)
        found = torch.cat([scores for _, scores in ways.scores(state)])
        whole = net.forward(state, loader.load_whole(graph, Role.VALIDATION).graph)
        torch.testing.assert_close(found, whole[wanted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory", [1 << 30, 30_000], ids=["plenty", "little"])
def test_the_first_hop_of_the_whole_graph_has_them(trained: Job, memory: int) -> None:
    aggregation = {"gcn": NORMALISED_SUM, "sage": MEAN}[trained.model.kind]
    with open_model(trained) as (graph, _):
        blocks = [rows for _, rows in first_aggregation.compute(graph, aggregation, memory)]
        assert (len(blocks) == 1) == (memory == 1 << 30)
        subgraph = loader.load_whole(graph, Role.VALIDATION).graph
        wanted = subgraph.gcn_x if aggregation.symmetric else subgraph.mean_x
        torch.testing.assert_close(torch.from_numpy(np.concatenate(blocks)), wanted, rtol=1e-5, atol=1e-5)


def test_of_all_parts_exact_is_truncated(trained: Job) -> None:
    options = trained.soup.pls.model_copy(update={"union": trained.partition.parts, "epochs": 3})
    truncated, exact = (
        runs.run_method(PartitionLearned(options.model_copy(update={"first_hop": hop})), trained).alpha
        for hop in ("truncated", "exact")
    )
    torch.testing.assert_close(truncated, exact, atol=1e-5, rtol=1e-5)


def test_looped_degrees_are_those_in_memory(trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "PIECE_ENTRIES", 500)
    with open_model(trained) as (graph, _):
        whole = loader.load_whole(graph, Role.VALIDATION).graph.adjacency
        loops = (whole.row == whole.indices).sum()
        assert 0 < loops < graph.nodes
        np.testing.assert_allclose(layers.sum_looped_weights(graph), whole.with_self_loops.degree, rtol=1e-5)


@pytest.mark.parametrize("batch", ["cluster", "neighbour"])
def test_batches_of_parts_and_samples(batch: str, tmp_path: Path) -> None:
    """Of samples by our own sampler too."""
    also = ["train.sampler=own", "train.fanout=[5]", "train.batch_size=100"] if batch == "neighbour" else []
    exact = ["train.first_hop=exact", "train.engine=torch"] if batch == "cluster" else ["train.drop_edges=0.1"]
    how = (f"train.batch={batch}", "train.ingredients=1", *exact, *also)
    job = train_run(tmp_path, "sage", *how)
    assert ingredient_store.read(RunDir.of(job).ingredient(0)).validation_accuracy > 0.6


def test_a_class_of_pygs_gets_them(tmp_path: Path) -> None:
    job = train_run(tmp_path, "gcn", "model.norm=batch", "train.ingredients=2", "train.epochs=30")
    assert ingredient_store.read(RunDir.of(job).ingredient(0)).validation_accuracy > 0.7
    runs.soup_run(job)
    with open_model(job) as (graph, net):
        assert net.kind == "gcn"
        assert read_record(net.record()) == net
        state, wanted = net.init_state(3), np.arange(0, graph.nodes, 2)
        ways = make_layerwise(graph, net, 100_000, tmp_path, runs.CPU, wanted)
        assert isinstance(ways, GeneralLayerwise)
        found = torch.cat([scores for _, scores in ways.scores(state)])
        whole = net.forward(state, loader.load_whole(graph, Role.VALIDATION).graph)
        torch.testing.assert_close(found, whole[wanted], rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "gat": ("gat", (), "graph.edge_weight = 'use': model.kind = 'gat' takes no weights, which gcn, sage and modules"),
}


@pytest.mark.parametrize(("kind", "overrides", "said"), REFUSED.values(), ids=REFUSED)
def test_what_takes_none_is_refused(kind: str, overrides: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=said):
        job_in(tmp_path, kind, *overrides)


@pytest.mark.parametrize(
    ("kind", "overrides", "said"),
    [
        ("gcn", ["train.engine=triton"], "models of kind 'gcn' with weights of edges on a CPU here"),
        ("gin", [], "the module's forward takes no edge_weight: give it one, or use 'ignore'"),
        ("sage", ["model.norm=batch"], "the module's forward takes no edge_weight"),
    ],
)
def test_what_computes_none_is_refused(kind: str, overrides: list[str], said: str, tmp_path: Path) -> None:
    job = job_in(tmp_path, kind, *overrides)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    with pytest.raises(JobError, match=said):
        runs.train(job)


def test_a_comparison_with_programs_without_weights_is_refused(trained: Job) -> None:
    with pytest.raises(JobError, match="programs that take no weights of edges, which the run's graph has"):
        select_run(trained, print)


def test_a_job_of_other_words_is_refused_its_graph(trained: Job) -> None:
    other: Any = runs.change_job(trained, "graph.edge_weight=ignore")
    with (
        pytest.raises(RunError, match=r"made with graph.edge_weight = 'use', the job says 'ignore'"),
        graph_store.open_graph(RunDir.of(trained).graph, other),
    ):
        pass


@pytest.fixture
def souped(trained: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Job:
    """The run with its soups, from an empty folder."""
    runs.soup_run(trained)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", None)
    return trained


def test_a_soup_predicts_what_is_reported(souped: Job) -> None:
    arrays, path = weighted(), RunDir.of(souped).root / "soups" / "ls.h5"
    soup = read_model(path)
    given = arrays["x"], arrays["edge_index"]
    assert main(["predict", str(path.parent.parent), "--method", "ls", "--to", "ls.npy"]) == 0
    scores = soup.predict(*given, arrays["edge_weight"])
    np.testing.assert_allclose(np.load("ls.npy"), scores, rtol=1e-3, atol=1e-3)
    words = ["predict", str(path.parent.parent), "--method", "ls", "--graph", souped.graph.source, "--to", "other.npy"]
    assert main(words) == 0
    np.testing.assert_allclose(np.load("other.npy"), scores, rtol=1e-3, atol=1e-3)
    with pytest.raises(GraphError, match="give edge_weight, one of each edge"):
        soup.predict(*given)
    for wrong in (arrays["edge_weight"][:-1], -arrays["edge_weight"]):
        with pytest.raises(GraphError, match="give a finite number from 0 on an edge"):
            soup.predict(*given, wrong)
    with pytest.raises(GraphError, match="edge_weight: those of edges to node 0 add up to more than float32 holds"):
        soup.predict(*given, np.full_like(arrays["edge_weight"], 1e38))
    plain = replace(soup, architecture=replace(soup.architecture, weighted=False))
    with pytest.raises(GraphError, match="takes no weights of edges: leave it out"):
        plain.predict(*given, arrays["edge_weight"])


def test_an_export_applies_them_or_is_refused(souped: Job, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, root = weighted(), RunDir.of(souped).root
    words = ["export", str(root), "--method", "ls", "--to", "soup.pt"]
    if souped.model.kind == "sage":
        assert main(words) == 1
        said = capsys.readouterr().err
        assert "torch_geometric.nn.GraphSAGE takes no weights of edges; this model does" in said
        assert list(Path().iterdir()) == []
        return
    assert main(words) == 0
    given = {name: arrays[name] for name in ("x", "edge_index", "edge_weight")}
    done = predict_alone(Path("soup.py"), **given)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = read_model(root / "soups" / "ls.h5").predict(*given.values())
    np.testing.assert_allclose(np.load("scores.npy"), wanted, rtol=1e-4, atol=1e-4)
    done = predict_alone(Path("soup.py"), **given | {"edge_weight": np.full_like(arrays["edge_weight"], 1e38)})
    said = "edge_weight: those of edges to node 0 add up to more than float32 holds\n"
    assert (done.returncode, done.stderr) == (1, said)
    del given["edge_weight"]
    done = predict_alone(Path("soup.py"), **given)
    assert (done.returncode, done.stderr) == (1, "the model takes an edge_weight, unlike this graph\n")
