"""Inference layer by layer against the whole graph at once, under bounds from plenty to next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc import layerwise, stream
from gnnsoup_hpc.evaluate import Evaluator, whole_bytes
from gnnsoup_hpc.layerwise import Layerwise
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import Role
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.store import graph as graph_store
from gnnsoup_hpc.store.graph import GraphFile
from tests import pantry, tiny

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
BOUNDS = {"plenty": 1 << 30, "some": 300_000, "little": 20_000, "none": 1}
every_bound = pytest.mark.parametrize("memory", BOUNDS.values(), ids=BOUNDS)


@pytest.fixture(scope="module", params=[True, False], ids=["undirected", "directed"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphFile]:
    """The tiny graph, with self-loops and, where it is directed, nodes that nobody points to."""
    folder = tmp_path_factory.mktemp("layerwise")
    job = pantry.job_in(folder, f"graph.undirected={str(request.param).lower()}")
    arrays = tiny.planted()
    loops = np.arange(0, tiny.NODES, 7)
    arrays["edge_index"] = np.concatenate([arrays["edge_index"][:, :900], np.stack([loops, loops])], 1)
    np.savez(folder / "tiny.npz", **arrays)
    pantry.prepare(job, pantry.ALONE, pantry.QUIET)
    with graph_store.opened(RunDir.of(job).graph, job) as opened:
        yield opened


def scores(graph: GraphFile, net: Architecture, memory: int, folder: Path, wanted: np.ndarray) -> torch.Tensor:
    """Class scores of every node, NaN where none were asked for."""
    out = torch.full((graph.nodes, net.classes), float("nan"))
    ways = Layerwise(graph, net, memory, folder, pantry.CPU)
    for start, found in ways.logits(net.initial_state(3), wanted):
        assert torch.isnan(out[start : start + len(found)]).all(), "a node came twice"
        out[start : start + len(found)] = found
    return out


@every_net
@every_bound
def test_every_bound_gives_the_scores_of_the_whole_graph(
    graph: GraphFile, net: Architecture, memory: int, tmp_path: Path
) -> None:
    whole = stream.whole(graph, Role.VALIDATION)
    wanted = net.logits(net.initial_state(3), whole.graph)
    found = scores(graph, net, memory, tmp_path, np.arange(graph.nodes))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_only_blocks_with_a_wanted_node_are_computed_last(graph: GraphFile, tmp_path: Path) -> None:
    first = int(graph.ptr[2])
    found = scores(graph, NETS[0], 1 << 30, tmp_path, np.array([first]))
    there = (~torch.isnan(found).any(1)).nonzero().flatten()
    assert there.tolist() == list(range(first, int(graph.ptr[3])))


def test_what_does_not_fit_is_cut_and_spills(graph: GraphFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    make = Layerwise._block

    def counted(self: Layerwise, start: int, stop: int, *rest: np.ndarray) -> layerwise.Block:
        sizes.append(stop - start)
        return make(self, start, stop, *rest)

    monkeypatch.setattr(Layerwise, "_block", counted)
    scores(graph, NETS[0], 1 << 30, tmp_path, np.arange(graph.nodes))
    assert max(sizes) == int(np.diff(graph.ptr).max())
    assert not list(tmp_path.iterdir())
    sizes.clear()
    scores(graph, NETS[0], 20_000, tmp_path, np.arange(graph.nodes))
    assert 1 < max(sizes) < int(np.diff(graph.ptr).max())
    assert {path.name for path in tmp_path.iterdir()} == {"layer-0", "layer-1"}
    sizes.clear()
    scores(graph, NETS[0], 1, tmp_path, np.arange(graph.nodes))
    assert max(sizes) == 1


@every_net
@pytest.mark.parametrize("models", [1, 3])
def test_accuracies_do_not_depend_on_the_bound(
    graph: GraphFile, net: Architecture, models: int, tmp_path: Path
) -> None:
    states = [net.initial_state(seed) for seed in range(models)]
    roles = (Role.VALIDATION, Role.TEST, Role.TRAIN)
    found = {}
    for name, memory in BOUNDS.items():
        evaluator = Evaluator(graph, net, memory, tmp_path / "run", pantry.CPU)
        assert evaluator.fits == (memory >= whole_bytes(graph, net))
        found[name] = evaluator.ensemble_accuracies(states, roles)
    assert len({tuple(accuracies) for accuracies in found.values()}) == 1
    assert 0.0 < min(found["plenty"]) < 1.0
    assert not list((tmp_path / "run").glob(".*")), "scratch is left behind"


def test_a_model_without_numbers_is_right_nowhere(graph: GraphFile, tmp_path: Path) -> None:
    net = NETS[0]
    broken = net.initial_state(0)
    broken["convs.2.bias"][0] = float("inf")
    for memory in BOUNDS.values():
        evaluator = Evaluator(graph, net, memory, tmp_path / "run", pantry.CPU)
        assert evaluator.accuracies(broken, (Role.VALIDATION, Role.TEST)) == [0.0, 0.0]
