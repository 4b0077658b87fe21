"""Inference layer by layer against the whole graph at once, under bounds from plenty to next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.nn import GCNConv

from gnnsoup_hpc.config import ModelJob
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine.out_of_core import layers
from gnnsoup_hpc.engine.out_of_core.layers import GeneralLayerwise, Layerwise, make_layerwise
from gnnsoup_hpc.engine.out_of_core.neighbourhoods import NeighbourhoodInference
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.memory.estimate import Sizes, inference
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.module import ModuleModel
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from tests import runs, tiny

NETS = [
    Architecture(kind, layers, tiny.FEATURES, 16, tiny.CLASSES, heads, norm)
    for kind, layers, heads, norm in (
        ("gcn", 3, 1, "none"),
        ("gcn", 1, 1, "none"),
        ("sage", 3, 1, "layer"),
        ("sage", 2, 1, "none"),
        ("gat", 3, 4, "layer"),
    )
]
every_net = pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net.kind}-{net.layers}")
BOUNDS = {"plenty": 1 << 30, "some": 300_000, "little": 30_000, "none": 1}
every_bound = pytest.mark.parametrize("memory", BOUNDS.values(), ids=BOUNDS)


@pytest.fixture(scope="module", params=[True, False], ids=["undirected", "directed"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphFile]:
    """The tiny graph, with self-loops and, where it is directed, nodes that nobody points to."""
    folder = tmp_path_factory.mktemp("layerwise")
    job = runs.job_in(folder, f"graph.undirected={str(request.param).lower()}")
    arrays = tiny.planted()
    loops = np.arange(0, tiny.NODES, 7)
    arrays["edge_index"] = np.concatenate([arrays["edge_index"][:, :900], np.stack([loops, loops])], 1)
    np.savez(folder / "tiny.npz", **arrays)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    with graph_store.open_graph(RunDir.of(job).graph, job) as opened:
        yield opened


Way = Callable[..., Layerwise]


def any_way(
    graph: GraphFile, net: Architecture, memory: int, folder: Path, device: torch.device, wanted: np.ndarray
) -> Layerwise:
    """The way that serves every model."""
    return GeneralLayerwise(graph, net, memory, folder, device, wanted)


def scores(
    graph: GraphFile, net: Architecture, memory: int, folder: Path, wanted: np.ndarray, way: Way = make_layerwise
) -> torch.Tensor:
    """Class scores of every node, NaN where none were asked for."""
    out = torch.full((graph.nodes, net.classes), float("nan"))
    ways = way(graph, net, memory, folder, runs.CPU, wanted)
    for first, found in ways.scores(net.init_state(3)):
        nodes = wanted[first : first + len(found)]
        assert len(nodes) == len(found)
        assert torch.isnan(out[nodes]).all(), "a node came twice"
        out[nodes] = found
    return out


OF_PYG = {
    "gcn with batch norm": ("gcn", "batch", {}),
    "gcn of another scale": ("gcn", "batch", {"improved": True}),
    "sage, sums": ("sage", "batch", {"aggr": "sum", "jk": "last"}),
    "gat, activation first": ("gat", "batch", {"act": "elu", "act_first": True}),
    "gatv2": ("gatv2", "layer", {}),
    "gin": ("gin", "none", {}),
    "pna": ("pna", "none", {"aggregators": ["mean", "max"], "scalers": ["identity", "amplification"]}),
    "edgecnn": ("edgecnn", "batch", {}),
    "all layers together": ("gin", "none", {"jk": "cat"}),
}
NEIGHBOURHOODS = ("gcn of another scale", "all layers together")


@pytest.mark.parametrize("name", OF_PYG)
def test_pygs_models_go_layer_by_layer(name: str, graph: GraphFile, tmp_path: Path) -> None:
    """Where their layers can be computed one by one; with statistics that are not those at the start."""
    kind, norm, arguments = OF_PYG[name]
    heads = 2 if kind in ("gat", "gatv2") else 1
    job = ModelJob(kind=kind, layers=3, hidden=8, heads=heads, norm=norm, arguments=arguments)
    model = make_model(job, graph.features, graph.classes, graph.count_degrees)
    assert isinstance(model, ModuleModel)
    state = model.init_state(3)
    for entry in model.statistics - model.integers:
        state[entry] = torch.rand(state[entry].shape, generator=torch.Generator().manual_seed(5)) + 0.5
    wanted = np.arange(0, graph.nodes, 3)
    with torch.no_grad():
        expected = model.forward(state, loader.load_whole(graph, Role.VALIDATION).graph)[wanted]
    for memory in (20_000_000, 20_000_000 if name in NEIGHBOURHOODS else 60_000):
        way = make_layerwise(graph, model, memory, tmp_path, runs.CPU, wanted)
        assert isinstance(way, NeighbourhoodInference if name in NEIGHBOURHOODS else GeneralLayerwise)
        found = torch.cat([scores for _, scores in way.scores(state)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(part.normalize for part in model.template.modules() if isinstance(part, GCNConv))  # as it was


@every_net
@every_bound
@pytest.mark.parametrize("way", [make_layerwise, any_way], ids=["chosen", "any"])
def test_every_bound_gives_the_scores_of_the_whole_graph(
    graph: GraphFile, net: Architecture, memory: int, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "SLAB_BYTES", (4000, 1 << 26))
    whole = loader.load_whole(graph, Role.VALIDATION)
    wanted = net.forward(net.init_state(3), whole.graph)
    found = scores(graph, net, memory, tmp_path, np.arange(graph.nodes), way)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@every_net
@every_bound
def test_only_wanted_nodes_are_told(graph: GraphFile, net: Architecture, memory: int, tmp_path: Path) -> None:
    wanted = np.array([3, 100, 101, 299])
    found = scores(graph, net, memory, tmp_path, wanted)
    assert (~torch.isnan(found).any(1)).nonzero().flatten().tolist() == wanted.tolist()
    whole = net.forward(net.init_state(3), loader.load_whole(graph, Role.VALIDATION).graph)
    torch.testing.assert_close(found[wanted], whole[wanted], rtol=1e-5, atol=1e-5)


def test_only_rows_that_the_wanted_nodes_depend_on_are_needed(graph: GraphFile) -> None:
    dense = np.zeros((graph.nodes, graph.nodes), dtype=np.int64)
    for node in range(graph.nodes):
        dense[node, graph.rows(node, node + 1)[1]] = 1
    wanted = np.zeros(graph.nodes, dtype=np.int64)
    wanted[[5, 120]] = 1
    found = layers.find_needed_rows(graph, np.flatnonzero(wanted), layers=3)
    np.testing.assert_array_equal(found[2], wanted)
    np.testing.assert_array_equal(found[1], (wanted + wanted @ dense) > 0)
    np.testing.assert_array_equal(found[0], (found[1] + found[1] @ dense) > 0)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_what_does_not_fit_is_cut_and_spills(
    graph: GraphFile, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    make = layers.read_block

    def counted(graph: GraphFile, span: tuple[int, int], *rest: Any) -> layers.RowBlock:
        sizes.append(span[1] - span[0])
        return make(graph, span, *rest)

    monkeypatch.setattr(layers, "read_block", counted)
    monkeypatch.setattr(layers, "SLAB_BYTES", (4000, 1 << 26))
    net, everyone = Architecture(kind, 3, tiny.FEATURES, 16, tiny.CLASSES), np.arange(graph.nodes)
    scores(graph, net, 1 << 30, tmp_path, everyone)
    assert sizes == [graph.nodes] * 3
    assert not list(tmp_path.iterdir())
    sizes.clear()
    scores(graph, net, 60_000, tmp_path, everyone)
    assert 3 < len(sizes) < 60
    sizes.clear()
    scores(graph, net, 1, tmp_path, everyone)
    assert 6 < len(sizes) < 60
    assert sum(sizes) == 3 * graph.nodes
    layer_1 = {"layer-1-0", "layer-1-1"} if kind == "sage" else {"layer-1-0"}
    assert {path.name for path in tmp_path.iterdir()} == {"layer-0-0"} | layer_1


def test_no_block_is_larger_than_its_room(graph: GraphFile) -> None:
    needed = (np.arange(graph.nodes) % 3 > 0).astype(np.uint8)
    degree, _ = graph.rows(0, graph.nodes)
    cost = (50 + 4 * (degree + 1)) * needed
    found = list(layers.cut_spans(graph, needed, 50, 1000))
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == graph.nodes
    assert all(cost[start:stop].sum() <= 1000 or stop == start + 1 for start, stop in found)
    assert all(cost[start:following].sum() > 1000 for (start, _), (_, following) in pairwise(found))


def test_attention_is_cut_and_spills(graph: GraphFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(*structure: Any, **more: Any) -> Adjacency:
        made = Adjacency(*structure, **more)
        sizes.append(made.nodes)
        return made

    monkeypatch.setattr(layers, "Adjacency", counted)
    scores(graph, NETS[0], 1 << 30, tmp_path, np.arange(graph.nodes), any_way)
    assert max(sizes) == int(np.diff(graph.ptr).max())
    assert not list(tmp_path.iterdir())
    sizes.clear()
    scores(graph, NETS[0], 20_000, tmp_path, np.arange(graph.nodes), any_way)
    assert 1 < max(sizes) < int(np.diff(graph.ptr).max())
    assert {path.name for path in tmp_path.iterdir()} == {"layer-0", "layer-1"}
    sizes.clear()
    scores(graph, NETS[0], 1, tmp_path, np.arange(graph.nodes), any_way)
    assert max(sizes) == 1


@every_net
@pytest.mark.parametrize("models", [1, 3])
def test_accuracies_do_not_depend_on_the_bound(
    graph: GraphFile, net: Architecture, models: int, tmp_path: Path
) -> None:
    states = [net.init_state(seed) for seed in range(models)]
    roles = (Role.VALIDATION, Role.TEST, Role.TRAIN)
    found = {}
    for name, memory in BOUNDS.items():
        evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, memory, tmp_path / "run"))
        assert evaluator.fits == (memory >= inference(Sizes.of(graph, net)))
        found[name] = evaluator.metrics(states, roles)
    assert len({tuple(accuracies) for accuracies in found.values()}) == 1
    assert 0.0 < min(found["plenty"]) < 1.0
    assert not list((tmp_path / "run").glob(".*")), "scratch is left behind"


def test_a_model_without_numbers_is_right_nowhere(graph: GraphFile, tmp_path: Path) -> None:
    net = NETS[0]
    broken = net.init_state(0)
    broken["convs.2.bias"][0] = float("inf")
    for memory in BOUNDS.values():
        evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, memory, tmp_path / "run"))
        assert evaluator.metrics([broken], (Role.VALIDATION, Role.TEST)) == [0.0, 0.0]
