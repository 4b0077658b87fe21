"""Laws of training: an ingredient is a function of (job, index), from one start, and never without a number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Plan, choose_engine
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import Ingredient
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import batches as dropout_edge
from gnnsoup_hpc.train import loop
from gnnsoup_hpc.train.batches import Batches, Edit, FullBatches
from gnnsoup_hpc.train.loop import TrainData, train
from gnnsoup_hpc.types import Draw, Role, State
from gnnsoup_hpc.utils.rng import derive_seed
from tests import runs, tiny

HOW = Hyperparameters(epochs=6, learning_rate=0.02, weight_decay=0.0, dropout=0.5)
NETS = [
    Architecture(kind, 2, tiny.FEATURES, 16, tiny.CLASSES, heads, norm)
    for kind, heads, norm in (("gcn", 1, "none"), ("sage", 1, "layer"), ("gat", 4, "none"))
]
every_kind = pytest.mark.parametrize("net", NETS, ids=lambda net: net.kind)


@dataclass(frozen=True)
class WholeGraph:
    """The whole graph for the seeds of each role."""

    graph: GraphFile
    folder: Path
    train: Batch
    validation: Batch
    test: Batch


@pytest.fixture(scope="module")
def whole(trained: Job) -> Iterator[WholeGraph]:
    run = RunDir.of(trained)
    with graph_store.open_graph(run.graph, trained) as graph:
        batch = loader.load_whole(graph, Role.TRAIN)
        others = (loader.share_graph(graph, batch, role) for role in (Role.VALIDATION, Role.TEST))
        yield WholeGraph(graph, run.root, batch, *others)


def data_of(net: Architecture, whole: WholeGraph, steps: Batches | None = None) -> TrainData:
    evaluator = Evaluator(whole.graph, net, EvalSettings(runs.CPU, 1 << 30, whole.folder))
    engine = choose_engine(net, runs.CPU)
    full = FullBatches(whole.graph, whole.train, whole.validation, partial(engine.plan, net, train=True))
    return TrainData(net, engine, steps or full, evaluator, runs.CPU)


def logits_of(net: Architecture, state: State, batch: Batch) -> Tensor:
    return net.forward(state, batch.graph)[batch.seeds]


def accuracy_of(net: Architecture, state: State, batch: Batch) -> float:
    return float((logits_of(net, state, batch).argmax(1) == batch.targets).double().mean())


def trained(
    net: Architecture,
    whole: WholeGraph,
    how: Hyperparameters = HOW,
    index: int = 0,
    initial: State | None = None,
    seed: int = 0,
) -> Ingredient:
    start = net.init_state(0) if initial is None else initial
    return train(data_of(net, whole), start, how, seed, index, runs.QUIET.bar(how.epochs, "test"))


def same(one: State, other: State) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def contents(job: Job) -> list[str]:
    hashes = []
    for index in range(job.train.ingredients):
        with h5py.File(RunDir.of(job).ingredient(index)) as file:
            hashes.append(str(file.attrs["content_sha256"]))
    return hashes


@pytest.mark.parametrize(("kind", "heads"), [("gcn", 1), ("sage", 1), ("gat", 2)])
def test_a_job_trained_twice_gives_the_same_bits(kind: str, heads: int, tmp_path: Path) -> None:
    small = ("train.epochs=3", "train.ingredients=2")
    jobs = [runs.train_run(tmp_path / place, *small, kind=kind, heads=heads) for place in ("here", "there")]
    here, there = (contents(job) for job in jobs)
    assert here == there
    assert here[0] != here[1]
    for index in range(2):
        states = [ingredient_store.read(RunDir.of(job).ingredient(index)).state for job in jobs]
        assert same(*states)


@every_kind
def test_the_index_and_the_seed_choose_the_dropout(net: Architecture, whole: WholeGraph) -> None:
    base = trained(net, whole)
    assert same(trained(net, whole).state, base.state)
    assert not same(trained(net, whole, index=1).state, base.state)
    assert not same(trained(net, whole, seed=1).state, base.state)


@every_kind
def test_without_dropout_all_ingredients_are_one(net: Architecture, whole: WholeGraph) -> None:
    """Nothing else tells them apart: they start from the same state."""
    how = replace(HOW, dropout=0.0)
    assert same(trained(net, whole, how, index=0).state, trained(net, whole, how, index=5).state)


def test_a_job_without_dropout_trains_one_model_n_times(tmp_path: Path) -> None:
    job = runs.train_run(tmp_path, "train.dropout=0.0", "train.epochs=3")
    assert len(set(contents(job))) == 1


@every_kind
def test_training_begins_at_the_initial_state_and_leaves_it_alone(net: Architecture, whole: WholeGraph) -> None:
    start = net.init_state(3)
    before = {name: tensor.clone() for name, tensor in start.items()}
    moved = trained(net, whole, replace(HOW, epochs=1, learning_rate=1e-6), initial=start)
    assert same(start, before)
    assert not same(moved.state, start)
    for name, tensor in moved.state.items():
        torch.testing.assert_close(tensor, start[name], atol=1.1e-6, rtol=0.0)  # Adam's first step is the rate


@every_kind
def test_shapes_and_kinds_are_kept(net: Architecture, whole: WholeGraph) -> None:
    state = trained(net, whole).state
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == net.shapes()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert not any(tensor.requires_grad for tensor in state.values())


@every_kind
def test_the_best_epochs_weights_are_kept_with_their_accuracies(net: Architecture, whole: WholeGraph) -> None:
    found = trained(net, whole)
    accuracies = [epoch.validation_accuracy for epoch in found.history]
    assert [epoch.epoch for epoch in found.history] == list(range(1, HOW.epochs + 1))
    assert found.best_epoch == 1 + accuracies.index(max(accuracies))
    assert found.validation_accuracy == max(accuracies)
    assert accuracy_of(net, found.state, whole.validation) == found.validation_accuracy
    assert accuracy_of(net, found.state, whole.test) == found.test_accuracy
    assert found.stopped == "all epochs done"


@every_kind
def test_training_learns(net: Architecture, whole: WholeGraph) -> None:
    found = trained(net, whole, replace(HOW, epochs=25))
    assert found.history[-1].loss < 0.8 * found.history[0].loss
    assert found.validation_accuracy > 0.6  # of three classes


def test_weight_decay_shrinks_weights(whole: WholeGraph) -> None:
    norms = [
        sum(float(t.square().sum()) for t in trained(NETS[0], whole, replace(HOW, weight_decay=decay)).state.values())
        for decay in (0.0, 1.0)
    ]
    assert norms[1] < norms[0]


def at_the_highest_rate(kind: str, layers: int, whole: WholeGraph) -> tuple[Ingredient, bool] | None:
    """The ingredient, if there is one, and whether its scores are numbers."""
    net = Architecture(kind, layers, tiny.FEATURES, 16, tiny.CLASSES)
    try:
        found = trained(net, whole, replace(HOW, learning_rate=1000.0))
    except RunError:
        return None
    return found, bool(torch.isfinite(logits_of(net, found.state, whole.validation)).all())


@pytest.mark.parametrize("layers", [2, 6, 14])
@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_the_highest_rate_ends_in_an_error_or_keeps_finite_weights(kind: str, layers: int, whole: WholeGraph) -> None:
    outcome = at_the_highest_rate(kind, layers, whole)
    if outcome:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in outcome[0].state.values())
        assert all(math.isfinite(epoch.loss) for epoch in outcome[0].history)


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_a_model_whose_scores_are_no_numbers_is_no_ingredient(kind: str, whole: WholeGraph) -> None:
    """After one step of this size the weights are finite, but what fourteen layers make of them is not."""
    outcome = at_the_highest_rate(kind, 14, whole)
    assert outcome is None or outcome[1]


def test_a_diverged_ingredient_says_when(whole: WholeGraph) -> None:
    net = Architecture("gat", 6, tiny.FEATURES, 16, tiny.CLASSES)
    found = trained(net, whole, replace(HOW, learning_rate=1000.0))
    assert found.stopped.startswith(f"diverged in epoch {len(found.history) + 1} ")
    assert len(found.history) < HOW.epochs


def test_divergence_at_once_names_the_rate(whole: WholeGraph) -> None:
    huge = {name: tensor * 1e30 for name, tensor in NETS[0].init_state(0).items()}
    with pytest.raises(RunError, match=r"ingredient 4 diverged in epoch 1 .*lower train.learning_rate = 0.02"):
        trained(NETS[0], whole, index=4, initial=huge)


@every_kind
def test_shared_masks_make_ingredients_one(net: Architecture, whole: WholeGraph) -> None:
    """On full batches nothing else tells them apart, and ingredient 0 is what it is without."""
    how = replace(HOW, shared_draws=("dropout",))
    zero = trained(net, whole, how, index=0).state
    assert same(zero, trained(net, whole, how, index=3).state)
    assert same(zero, trained(net, whole, index=0).state)
    assert not same(zero, trained(net, whole, replace(HOW, shared_draws=("order", "edges")), index=3).state)


@every_kind
@pytest.mark.parametrize("what", ["edges", "features"])
def test_what_is_dropped_is_that_of_index_and_seed(what: Draw, net: Architecture, whole: WholeGraph) -> None:
    how = replace(HOW, dropout=0.0, **{f"drop_{what}": 0.4})
    base = trained(net, whole, how, index=0).state
    assert same(trained(net, whole, how, index=0).state, base)
    assert not same(trained(net, whole, replace(HOW, dropout=0.0)).state, base)
    assert not same(trained(net, whole, how, index=1).state, base)
    assert not same(trained(net, whole, how, seed=1).state, base)
    shared = replace(how, shared_draws=(what,))
    assert same(trained(net, whole, shared, index=1).state, base)


def test_each_step_drops_its_own_edges(whole: WholeGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key a step of an epoch, none of them twice; accuracies are told on all edges."""
    keys: list[int] = []

    plan = partial(choose_engine(NETS[0], runs.CPU).plan, NETS[0], train=True)

    class Thrice:
        def epoch(self, generator: object, edit: Edit) -> Iterator[Plan]:
            yield from (plan(edit(whole.train, step)) for step in range(3))

        def validation(self) -> Iterator[Plan]:
            yield plan(whole.validation)

    def noted(batch: Batch, rate: float, key: int) -> Batch:
        assert batch.seeds is whole.train.seeds
        keys.append(key)
        return dropout_edge.dropout_edge(batch, rate, key)

    monkeypatch.setattr(loop, "dropout_edge", noted)
    how = replace(HOW, epochs=2, drop_edges=0.3)
    found = train(data_of(NETS[0], whole, Thrice()), NETS[0].init_state(0), how, 0, 5, runs.QUIET.bar(2, "test"))
    assert keys == [derive_seed(0, 5, epoch, step) for epoch in (1, 2) for step in range(3)]
    assert len(set(keys)) == 6
    assert found.validation_accuracy == max(epoch.validation_accuracy for epoch in found.history)


def test_vary_is_applied_in_turn(tmp_path: Path) -> None:
    job = runs.train_run(tmp_path, "train.vary.epochs=[2, 4]", "train.vary.dropout=[0.1, 0.2, 0.3]")
    found = [ingredient_store.read(RunDir.of(job).ingredient(index)) for index in range(3)]
    assert [len(ingredient.history) for ingredient in found] == [2, 4, 2]
    assert [ingredient.hyperparameters.dropout for ingredient in found] == [0.1, 0.2, 0.3]
    assert len(set(contents(job))) == 3
