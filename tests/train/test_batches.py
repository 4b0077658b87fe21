"""What an epoch's steps are taken on, and what is told between epochs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import choose_engine
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import leases
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import runner
from gnnsoup_hpc.train.batches import ClusterBatches, HostGraph, NeighbourBatches, PartValidation
from gnnsoup_hpc.train.loop import TrainData, Training
from gnnsoup_hpc.types import Role, State
from tests import runs, tiny

CLUSTER = ("train.batch=cluster", "train.clusters=2")
NEIGHBOUR = ("train.batch=neighbour", "train.batch_size=50", "train.fanout=[6, 4]", "train.clusters=3")
KINDS = {"cluster": CLUSTER, "neighbour": NEIGHBOUR}
every_kind = pytest.mark.parametrize("kind", KINDS)
NETS = {kind: Architecture(kind, 3, tiny.FEATURES, 16, tiny.CLASSES) for kind in ("gcn", "sage", "gat")}


@pytest.fixture(scope="module")
def graph(trained: Job) -> Iterator[GraphFile]:
    with graph_store.open_graph(RunDir.of(trained).graph, trained) as opened:
        yield opened


def as_is(batch: Batch) -> Any:
    """In the place of what makes a plan: then an epoch gives the batches themselves."""
    return batch


def clusters_of(graph: GraphFile, clusters: int) -> Iterator[Batch]:
    plans: Iterator[Any] = ClusterBatches(graph, clusters, as_is).epoch(rng())
    return plans


def neighbours(graph: GraphFile, size: int, *fanout: int) -> Iterator[Batch]:
    plans: Iterator[Any] = NeighbourBatches(graph, 1, as_is, size, fanout, 3, "own", HostGraph(graph)).epoch(rng())
    return plans


def logits_of(net: Architecture, state: State, batch: Batch) -> torch.Tensor:
    return net.forward(state, batch.graph)[batch.seeds]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_an_epoch_of_clusters_sees_every_training_node_once(graph: GraphFile) -> None:
    labels = graph.y(0, graph.nodes)[graph.role(0, graph.nodes) == Role.TRAIN]
    for clusters in (1, 3, 8):
        batches = list(clusters_of(graph, clusters))
        assert len(batches) <= math.ceil(graph.parts / clusters)
        assert sum(len(batch.seeds) for batch in batches) == len(labels)
        assert np.array_equal(np.bincount(torch.cat([v.targets for v in batches])), np.bincount(labels))
        assert sum(batch.graph.adjacency.nodes for batch in batches) == graph.nodes


def test_clusters_come_in_an_order_of_the_generator(graph: GraphFile) -> None:
    sizes = [[batch.size for batch in ClusterBatches(graph, 1, as_is).epoch(rng(seed))] for seed in (0, 0, 1)]
    assert sizes[0] == sizes[1]
    assert sizes[0] != sizes[2]
    assert sorted(sizes[0]) == sorted(sizes[2])


def test_all_parts_in_one_cluster_are_the_whole_graph(graph: GraphFile) -> None:
    (batch,) = clusters_of(graph, graph.parts)
    whole = loader.load_whole(graph, Role.TRAIN)
    assert torch.equal(batch.graph.x, whole.graph.x)
    assert torch.equal(batch.graph.adjacency.indices, whole.graph.adjacency.indices)
    assert torch.equal(batch.seeds, whole.seeds)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_exact_first_sums_are_the_whole_graphs(kind: str, engine: str, tmp_path: Path) -> None:
    """In one union of all parts they change nothing but rounding; of few parts steps see sums beyond their union."""
    one = ("train.batch=cluster", "train.ingredients=1", "train.epochs=4")
    wide = runs.prepare_run(tmp_path, f"model.kind={kind}", f"train.engine={engine}", "model.layers=1", *one)
    lasts = {}
    for clusters in (2, wide.partition.parts):
        for hop in ("truncated", "exact"):
            job = runs.change_job(
                wide, f"train.clusters={clusters}", f"train.first_hop={hop}", f"name={hop}-{clusters}"
            )
            runs.prepare(job, runs.ALONE, runs.QUIET)
            runs.train(job)
            ingredient = ingredient_store.read(RunDir.of(job).ingredient(0))
            lasts[hop, clusters] = [epoch.loss for epoch in ingredient.history]
    assert lasts["exact", wide.partition.parts] == pytest.approx(lasts["truncated", wide.partition.parts], rel=1e-4)
    assert lasts["exact", 2] != pytest.approx(lasts["truncated", 2], rel=1e-4)


def test_a_trunk_and_what_branches_from_it_have_the_same_first_sums(tmp_path: Path) -> None:
    """Whether the same process trained the trunk or not."""
    exact = ("train.batch=cluster", "train.first_hop=exact", "train.trunk_epochs=2", "train.ingredients=1")
    exact += ("train.epochs=4",)
    job = runs.train_run(tmp_path, *exact)
    path = RunDir.of(job).ingredient(0)
    content = ingredient_store.read(path)
    path.unlink()
    runs.train(job)
    again = ingredient_store.read(path)
    assert [epoch.loss for epoch in again.history] == [epoch.loss for epoch in content.history]
    assert all(torch.equal(again.state[name], tensor) for name, tensor in content.state.items())
    truncated = runs.change_job(job, "train.first_hop=truncated", "name=truncated")
    runs.prepare(truncated, runs.ALONE, runs.QUIET)
    runs.train(truncated)
    trunks = [ingredient_store.read_trunk(RunDir.of(each).trunk).history[-1].loss for each in (job, truncated)]
    assert trunks[0] != trunks[1]


def test_the_file_of_first_sums_is_made_by_one_and_read_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("train.ingredients=2", "train.epochs=2")
    job = runs.train_run(tmp_path, "train.batch=cluster", "train.first_hop=exact", *few)
    run = RunDir.of(job)
    path, lease = run.first_hop("sage"), run.lease("first-hop")
    before = path.stat().st_mtime_ns
    run.ingredient(1).unlink()
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    held, done = threading.Event(), threading.Event()

    def somebody_else() -> None:
        with leases.hold(lease):
            held.set()
            done.wait()

    other = threading.Thread(target=somebody_else)
    other.start()
    held.wait()
    waits = threading.Thread(target=runs.train, args=(job,))
    waits.start()
    waits.join(0.5)
    assert waits.is_alive()
    assert not run.ingredient(1).exists()
    done.set()
    for thread in (waits, other):
        thread.join()
    assert run.ingredient(1).exists()
    assert path.stat().st_mtime_ns == before
    assert not lease.exists()


def test_clusters_never_read_more_than_a_union_ahead(graph: GraphFile, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    x = GraphFile.x
    monkeypatch.setattr(GraphFile, "x", lambda self, a, b, out: read.append(b - a) or x(self, a, b, out))
    batches, union = ClusterBatches(graph, 2, as_is), 2 * int(np.diff(graph.ptr).max())
    for stream in (batches.epoch(rng()), batches.validation()):
        for number, _ in enumerate(stream, 1):
            assert sum(read) <= (number + 1) * union
        read.clear()


def test_a_union_without_training_nodes_is_no_step(graph: GraphFile, monkeypatch: pytest.MonkeyPatch) -> None:
    start, stop = int(graph.ptr[2]), int(graph.ptr[3])
    role = GraphFile.role

    def without(self: GraphFile, first: int, last: int) -> np.ndarray:
        found = role(self, first, last)
        ids = np.arange(first, last)
        return np.where((ids >= start) & (ids < stop), np.uint8(Role.NONE), found)

    monkeypatch.setattr(GraphFile, "role", without)
    batches = list(clusters_of(graph, 1))
    assert len(batches) == graph.parts - 1
    assert all(len(batch.seeds) for batch in batches)


@pytest.mark.parametrize("kind", ["sage", "gat"])
def test_all_neighbours_give_the_whole_graphs_scores(graph: GraphFile, kind: str) -> None:
    """Of GCN the outermost nodes' degrees are those of the sample, as PyG has it."""
    net, whole = NETS[kind], loader.load_whole(graph, Role.TRAIN)
    state = net.init_state(0)
    wanted = {tuple(row) for row in logits_of(net, state, whole).round(decimals=3).tolist()}
    for batch in neighbours(graph, 40, -1):
        scores = logits_of(net, state, batch).round(decimals=3)
        assert len(batch.seeds) <= 40
        assert {tuple(row) for row in scores.tolist()} <= wanted


def test_an_epoch_of_neighbourhoods_sees_every_training_node_once(graph: GraphFile) -> None:
    labels = graph.y(0, graph.nodes)[graph.role(0, graph.nodes) == Role.TRAIN]
    batches = list(neighbours(graph, 40, 5, 3))
    assert [len(batch.seeds) for batch in batches] == [40, 40, 40, 40, 20]
    assert np.array_equal(np.bincount(torch.cat([v.targets for v in batches])), np.bincount(labels))
    assert max(batch.graph.adjacency.degree.max() for batch in batches) == 5
    features = {tuple(row) for row in loader.load_whole(graph, Role.TRAIN).graph.x.tolist()}
    assert all(tuple(row) in features for batch in batches for row in batch.graph.x.tolist())


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_between_epochs_all_parts_together_tell_the_exact_accuracy(
    graph: GraphFile, net: Architecture, tmp_path: Path
) -> None:
    state, evaluator = net.init_state(1), Evaluator(graph, net, EvalSettings(runs.CPU, 1 << 30, tmp_path))
    (exact,) = evaluator.metrics([state], (Role.VALIDATION,))
    how = Hyperparameters(epochs=1, learning_rate=1e-12, weight_decay=0.0, dropout=0.0)
    engine = choose_engine(net, runs.CPU)
    plan = partial(engine.plan, net, train=True)

    def reached(clusters: int, state: State) -> float:
        """By a training that hardly moves."""
        data = TrainData(net, engine, ClusterBatches(graph, clusters, plan), evaluator, runs.CPU)
        return Training(data, state, how, 0, 0).epoch().validation_accuracy

    assert reached(graph.parts, state) == exact
    assert abs(reached(3, state) - exact) < 0.25
    next(tensor for name, tensor in state.items() if name.endswith("bias"))[0] = float("nan")
    assert math.isnan(reached(3, state))


@pytest.mark.parametrize("clusters", [1, 3, 8])
def test_validation_sees_every_validation_node_once(graph: GraphFile, clusters: int) -> None:
    targets = graph.y(0, graph.nodes)[graph.role(0, graph.nodes) == Role.VALIDATION]
    found = [batch.targets for batch in PartValidation(graph, clusters, as_is).validation()]
    assert len(found) == math.ceil(graph.parts / clusters)
    assert np.array_equal(torch.cat(found), targets)


@every_kind
def test_mini_batches_learn_and_record_exact_accuracies(kind: str, tmp_path: Path) -> None:
    job = runs.train_run(tmp_path, *KINDS[kind], ingredients=2)
    run = RunDir.of(job)
    with graph_store.open_graph(run.graph, job) as graph:
        net = make_model(job.model, graph.features, graph.classes)
        evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, 1 << 30, tmp_path))
        for index in range(job.train.ingredients):
            found = ingredient_store.read(run.ingredient(index))
            exact = evaluator.metrics([found.state], (Role.VALIDATION, Role.TEST))
            assert [found.validation_accuracy, found.test_accuracy] == exact
            assert found.test_accuracy > 0.7
            assert found.history[-1].loss < found.history[0].loss
            best = max(epoch.validation_accuracy for epoch in found.history)
            assert found.history[found.best_epoch - 1].validation_accuracy == best


@every_kind
def test_the_same_job_gives_the_same_bits(kind: str, tmp_path: Path) -> None:
    states = []
    for name in ("one", "other"):
        job = runs.train_run(tmp_path / name, *KINDS[kind], "train.epochs=3", ingredients=2)
        states.append([ingredient_store.read(RunDir.of(job).ingredient(index)).state for index in range(2)])
    for one, other in zip(*states, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(states[0][0]["convs.0.lin_l.weight"], states[0][1]["convs.0.lin_l.weight"])


@every_kind
def test_the_order_of_batches_can_be_shared(kind: str, tmp_path: Path) -> None:
    """It then is all that two ingredients without dropout share or do not share."""
    for draws, alike in (("[]", False), ('["order"]', True)):
        words = (*KINDS[kind], "train.epochs=2", "train.dropout=0.0", f"train.shared_draws={draws}")
        job = runs.train_run(tmp_path / str(alike), *words, ingredients=2)
        one, other = (ingredient_store.read(RunDir.of(job).ingredient(index)).state for index in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one) == alike


@every_kind
def test_mini_batches_drop_edges(kind: str, tmp_path: Path) -> None:
    words = (*KINDS[kind], "train.epochs=3", "train.drop_edges=0.5", "train.dropout=0.0")
    with_all = runs.train_run(tmp_path / "all", *words[:-2], "train.dropout=0.0", ingredients=1)
    without = runs.train_run(tmp_path / "some", *words, ingredients=1)
    one, other = (ingredient_store.read(RunDir.of(job).ingredient(0)) for job in (with_all, without))
    assert one.history[0].loss != other.history[0].loss
    assert other.history[-1].loss < other.history[0].loss


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("cluster", "train.clusters=3", "train.clusters was 2, the job says 3"),
        ("cluster", "train.batch=full", "train.batch was 'cluster', the job says 'full'"),
        ("neighbour", "train.batch_size=20", "train.batch_size was 50, the job says 20"),
        ("neighbour", "train.fanout=[6]", r"train.fanout was \[6, 4\], the job says \[6\]"),
    ],
)
def test_ingredients_of_other_batches_are_refused(kind: str, override: str, message: str, tmp_path: Path) -> None:
    job = runs.train_run(tmp_path, *KINDS[kind], "train.epochs=1", ingredients=1)
    with pytest.raises(RunError, match=message):
        runs.train(runs.change_job(job, override))


def test_mini_batches_depend_on_the_parts_and_full_batches_do_not(tmp_path: Path) -> None:
    for kind in ("full", "cluster"):
        job = runs.train_run(tmp_path / kind, f"train.batch={kind}", "train.epochs=1", ingredients=1)
        other = runs.change_job(job, "partition.parts=4")
        runs.prepare(other, runs.ALONE, runs.QUIET, again=True)
        if kind == "full":
            runs.train(other)
        else:
            with pytest.raises(RunError, match="part_sha256 was"):
                runs.train(other)
