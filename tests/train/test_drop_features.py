"""Feature dropping: the right share, of all nodes alike, the others scaled; the same in every kind of batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import scipy.sparse as sp
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import TorchEngine, choose_engine
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.batches import (
    Batches,
    ClusterBatches,
    FullBatches,
    HostGraph,
    NeighbourBatches,
    drop_features,
    dropout_edge,
)
from gnnsoup_hpc.train.loop import TrainData, Training
from gnnsoup_hpc.types import Role
from gnnsoup_hpc.utils.rng import FEATURES, derive_seed
from tests import runs, tiny
from tests.arbitrary import make_sparse, normal, random_structure

NODES, WIDTH = 40, 3000
HOW = Hyperparameters(epochs=3, learning_rate=0.02, weight_decay=0.0, dropout=0.0, drop_features=0.4)


@pytest.fixture(scope="module")
def view() -> Batch:
    nodes = torch.arange(NODES)
    features = normal(0, NODES, WIDTH, kind=torch.float32)
    return Batch(Subgraph(features, random_structure(NODES, 200).adjacency()), nodes, nodes % 3)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_of_the_columns_is_left_out_and_the_others_are_scaled(view: Batch, rate: float) -> None:
    seen = []
    for key in (3, 4):
        left = drop_features(view, rate, key)
        assert torch.equal(drop_features(view, rate, key).graph.x, left.graph.x)
        gone = (left.graph.x == 0).all(0)
        assert abs(gone.double().mean() - rate) < 5 * (rate * (1 - rate) / WIDTH) ** 0.5
        wanted = torch.where(gone, 0.0, view.graph.x / (1 - rate))
        torch.testing.assert_close(left.graph.x, wanted)
        assert left.graph.adjacency is view.graph.adjacency
        assert left.seeds is view.seeds
        seen.append(gone)
    assert not torch.equal(*seen)
    assert torch.equal(drop_features(view, 0.0, 3).graph.x, view.graph.x)


def test_sparse_features_are_those_of_the_same_columns(view: Batch) -> None:
    sparse = make_sparse(view)
    left = drop_features(sparse, 0.3, 5).graph
    assert isinstance(left.features, sp.csr_matrix)
    dense = drop_features(replace(view, graph=Subgraph(sparse.graph.x, view.graph.adjacency)), 0.3, 5).graph
    assert torch.equal(left.x, dense.x)


def test_sums_that_are_there_already_are_those_of_what_is_left(view: Batch) -> None:
    graph = view.graph
    for features in (graph.x, graph.x[:, :0]):
        given = replace(view, graph=Subgraph(features, graph.adjacency, graph.mean_x))
        found, wanted = drop_features(given, 0.3, 5).graph, drop_features(view, 0.3, 5).graph
        torch.testing.assert_close(found.mean_x, wanted.mean_x)
        assert torch.equal(found.x, wanted.x[:, : features.shape[1]])


@pytest.fixture(scope="module")
def graph(trained: Job) -> Iterator[GraphFile]:
    with graph_store.open_graph(RunDir.of(trained).graph, trained) as opened:
        yield opened


def losses(graph: GraphFile, kind: str, batch: str, how: Hyperparameters) -> list[float]:
    """Of each epoch, of batches that are all the whole graph."""
    net = Architecture(kind, 2, tiny.FEATURES, 16, tiny.CLASSES)
    engine = TorchEngine() if batch == "torch" else choose_engine(net, runs.CPU)
    plan = partial(engine.plan, net, train=True)
    whole = loader.load_whole(graph, Role.TRAIN)
    batches: dict[str, Batches] = {
        "cluster": ClusterBatches(graph, graph.parts, plan),
        "neighbour": NeighbourBatches(graph, 8, plan, graph.nodes, (-1,), 2, "compiled", HostGraph(graph)),
    }
    full = FullBatches(graph, whole, loader.share_graph(graph, whole, Role.VALIDATION), plan)
    evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, 1 << 30, Path()))
    data = TrainData(net, engine, batches.get(batch, full), evaluator, runs.CPU)
    training = Training(data, net.init_state(0), how, 0, 2)
    return [training.epoch().loss for _ in range(how.epochs)]


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_steps_leave_out_the_same_in_every_kind_of_batches(kind: str, graph: GraphFile) -> None:
    """What plain training on the features that are left gives, with a key of seed, index, epoch and step."""
    net, wanted = Architecture(kind, 2, tiny.FEATURES, 16, tiny.CLASSES), list[float]()
    whole, state = loader.load_whole(graph, Role.TRAIN), net.init_state(0)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    adam = torch.optim.Adam(leaves.values(), lr=HOW.learning_rate)
    for epoch in range(1, HOW.epochs + 1):
        batch = dropout_edge(whole, 0.2, derive_seed(0, 2, epoch, 0))
        batch = drop_features(batch, 0.4, derive_seed(0, FEATURES, 2, epoch, 0))
        logits = net.forward(leaves, batch.graph)[batch.seeds]
        loss = torch.nn.functional.cross_entropy(logits, batch.targets)
        adam.zero_grad()
        loss.backward()
        adam.step()
        wanted.append(loss.item())
    both = replace(HOW, drop_edges=0.2)
    for way in ("full", "torch"):
        assert losses(graph, kind, way, both) == pytest.approx(wanted, rel=2e-5)
    alone = losses(graph, kind, "full", HOW)
    for way in ("cluster", "neighbour"):
        assert losses(graph, kind, way, HOW) == pytest.approx(alone, rel=2e-5)
    assert alone != pytest.approx(wanted, rel=1e-3)
