"""Whose labels are trained on: those of training nodes, of validation nodes too, or of a bag of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import DistilJob, Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.data.loader import Bag
from gnnsoup_hpc.engine import Plan, choose_engine
from gnnsoup_hpc.errors import DivergedError, JobError, RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.records import Ingredient
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.train.batches import ClusterBatches, FullBatches, HostGraph, NeighbourBatches
from gnnsoup_hpc.train.imports import import_files
from gnnsoup_hpc.train.loop import TrainData, Training, train
from gnnsoup_hpc.types import TRAINED_ROLES, Labels, Role
from gnnsoup_hpc.utils.counter import derive_key
from gnnsoup_hpc.utils.rng import BAG, TRUNK, derive_seed
from tests import runs, tiny

SHARE, EPOCHS = 0.3, 3
WAYS = {
    "full": ("train.batch=full",),
    "torch": ("train.batch=full", "train.engine=torch"),
    "cluster": ("train.batch=cluster", "train.clusters=8"),
    "neighbour": ("train.batch=neighbour", "train.fanout=[-1]"),
}
LABELS = ("training", "all")


@dataclass(frozen=True)
class Split:
    """Original ids of nodes by their role; others have a label and no role."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    others: np.ndarray


@pytest.fixture(scope="module")
def split() -> Split:
    order = np.random.default_rng(3).permutation(tiny.NODES)
    return Split(*(np.sort(ids) for ids in np.split(order, [90, 130, 230])))


def prepare(folder: Path, split: Split, *overrides: str) -> Job:
    """A job of two ingredients, without dropout, on the tiny graph with that split."""
    small = ("train.ingredients=2", f"train.epochs={EPOCHS}", "train.dropout=0.0", 'soup.methods=["uniform"]')
    job = runs.job_in(folder, *small, *overrides)
    arrays = tiny.planted()
    for name, ids in (("train", split.train), ("val", split.validation), ("test", split.test)):
        arrays[f"{name}_mask"] = np.isin(np.arange(tiny.NODES), ids)
    np.savez(folder / "tiny.npz", **arrays)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    return job


def read(job: Job) -> list[Ingredient]:
    return [ingredient_store.read(RunDir.of(job).ingredient(index)) for index in range(job.train.ingredients)]


def losses(job: Job, *overrides: str) -> list[list[float]]:
    """Of each epoch of each ingredient: they tell the weights at its beginning."""
    changed = runs.change_job(job, "name=other", *overrides)
    runs.prepare(changed, runs.ALONE, runs.QUIET)
    runs.train(changed)
    found = [[epoch.loss for epoch in ingredient.history] for ingredient in read(changed)]
    runs.shutil.rmtree(RunDir.of(changed).root)
    return found


def draw(index: int, among: np.ndarray) -> np.ndarray:
    """The bag of an ingredient: the nodes whose hashes of ids, as signed numbers, are the lowest."""
    key = derive_seed(0, BAG, index)
    hashes = np.array([derive_key(key, int(node)) for node in among], dtype=np.uint64).astype(np.int64)
    return among[np.argsort(hashes)[: round(SHARE * len(among))]]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Job:
    return prepare(tmp_path_factory.mktemp("here"), split)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, split: Split) -> dict[tuple[str, float], list[list[float]]]:
    """Losses on graphs of which other nodes have no role, by what is trained on here."""
    both, place = np.concatenate([split.train, split.validation]), tmp_path_factory.mktemp
    alone = "train.ingredients=1"
    bags = [replace(split, train=draw(index, split.train)) for index in range(2)]
    known = prepare(place("all"), replace(split, train=both, validation=split.others), alone)
    return {
        ("all", 1.0): losses(known) * 2,
        ("training", SHARE): [losses(prepare(place("bag"), bag, alone))[0] for bag in bags],
    }


@pytest.mark.parametrize("way", WAYS)
def test_training_is_that_of_a_graph_with_other_roles(
    way: str, here: Job, elsewhere: dict[tuple[str, float], list[list[float]]]
) -> None:
    """Of every kind of batches and two engines."""
    for (labels, share), wanted in elsewhere.items():
        found = losses(here, f"train.labels={labels}", f"train.bag={share}", *WAYS[way])
        for own, expected in zip(found, wanted, strict=True):
            assert own == pytest.approx(expected, rel=2e-5), (labels, share)
    first = {round(loss, 4) for wanted in elsewhere.values() for loss, *_ in wanted}
    assert len(first) == 3


def test_a_bag_has_its_share_of_the_nodes_and_each_of_them_as_often() -> None:
    ids = np.random.default_rng(0).permutation(1000)[:200]
    drawn = np.zeros(200)
    for key in range(300):
        bag = Bag.draw(ids, 0.3, key)
        assert bag.has(ids).sum() == 60
        assert np.array_equal(Bag.draw(np.sort(ids), 0.3, key).has(ids), bag.has(ids))
        drawn += bag.has(ids)
    assert abs(drawn - 90).max() < 5 * np.sqrt(300 * 0.3 * 0.7)
    assert abs(drawn - 90).max() > 5
    assert [Bag.draw(ids[:size], share, 1).has(ids[:size]).sum() for size, share in ((200, 1e-9), (1, 0.1))] == [1, 1]


@dataclass(frozen=True)
class Planned:
    """What models are trained on, and the batches that plans are made of."""

    data: TrainData
    made: list[Batch]


@pytest.fixture
def planned(here: Job) -> Iterator[Planned]:
    net, made = Architecture("sage", 2, tiny.FEATURES, 16, tiny.CLASSES), list[Batch]()
    engine = choose_engine(net, runs.CPU)
    with graph_store.open_graph(RunDir.of(here).graph, here) as graph:
        view = loader.load_whole(graph, Role.TRAIN)

        def plan(batch: Batch) -> Plan:
            made.append(batch)
            return engine.plan(net, batch, train=True)

        batches = FullBatches(graph, view, loader.share_graph(graph, view, Role.VALIDATION), plan)
        evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, 1 << 30, Path()))
        yield Planned(TrainData(net, engine, batches, evaluator, runs.CPU), made)


HOW = Hyperparameters(epochs=3, learning_rate=0.01, weight_decay=0.0, dropout=0.0, bag=0.5)


def test_a_bag_is_of_seed_and_index_and_its_plan_is_made_once(planned: Planned) -> None:
    """Nodes that are drawn alike are those of ingredient 0; the trunk has all."""
    data, start = planned.data, planned.data.model.init_state(0)
    alike = replace(HOW, shared_draws=("nodes",))
    ways = [(HOW, 0, 0), (HOW, 0, 1), (HOW, 1, 0), (alike, 0, 1), (replace(HOW, trunk_epochs=3).of_trunk, 0, TRUNK)]
    for how, seed, index in ways:
        training = Training(data, start, how, seed, index)
        for _ in range(3):
            training.epoch()
    trained = [batch.seeds.tolist() for batch in planned.made if batch is not planned.made[1]]
    assert [len(seeds) for seeds in trained] == [45, 45, 45, 45, 90]
    assert len(planned.made) == 6  # with that of validation nodes, which all share
    assert all(batch.graph is planned.made[0].graph for batch in planned.made)
    assert trained[0] == trained[3]
    assert len({tuple(seeds) for seeds in trained}) == 4


def test_what_diverges_before_its_last_epoch_is_no_ingredient(planned: Planned) -> None:
    data = planned.data
    wild = {name: tensor * 1e30 for name, tensor in data.model.init_state(0).items()}
    how = replace(HOW, labels="all")
    with pytest.raises(DivergedError, match="and its last epoch is what is kept: lower"):
        train(data, wild, how, 0, 0, runs.QUIET.bar(3, "test"))


def test_mini_batches_of_a_bag_share_what_is_in_memory(here: Job) -> None:
    with graph_store.open_graph(RunDir.of(here).graph, here) as graph:
        as_is = partial(lambda batch: batch)
        whole = NeighbourBatches(graph, 1, as_is, 20, (3,), 2, "own", HostGraph(graph), role=TRAINED_ROLES["all"])
        bag = whole.draw_bag(0.5, 7)
        assert bag.whole is whole.whole
        drawn = [batch.seeds for batch in bag.epoch(np.random.default_rng(0))]
        assert sum(map(len, drawn)) == 65
        tiny_bag = ClusterBatches(graph, 1, as_is).draw_bag(0.01, 7)
        assert [len(batch.seeds) for batch in tiny_bag.epoch(np.random.default_rng(0))] == [1]  # unions without: none


@pytest.fixture(scope="module")
def all_labels(here: Job) -> Job:
    """A souped run whose ingredients were trained on all labels, with dropout."""
    job = runs.change_job(here, "name=all", "train.labels=all", "train.dropout=0.5", "train.patience=1")
    runs.prepare(job, runs.ALONE, runs.QUIET)
    runs.train(job)
    return runs.soup_run(job)


def test_the_last_epoch_is_kept_and_the_only_one_that_is_judged(all_labels: Job) -> None:
    for ingredient in read(all_labels):
        judged = [epoch.validation_accuracy for epoch in ingredient.history]
        assert np.isnan(judged).tolist() == [True] * (EPOCHS - 1) + [False]
        assert (ingredient.best_epoch, ingredient.stopped) == (EPOCHS, "all epochs done")
        assert ingredient.validation_accuracy == pytest.approx(judged[-1])


def test_a_report_says_that_validation_nodes_were_trained_on(
    all_labels: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.soup(all_labels, runs.ALONE)
    said = capsys.readouterr().out
    assert "2 of 2 ingredients were trained on the labels of validation nodes too (train.labels)" in said


def test_methods_that_choose_by_labels_that_were_trained_on_are_refused(all_labels: Job) -> None:
    distil = 'soup.methods=["distil"]'
    for asked in (
        ['soup.methods=["ls"]'],
        ['soup.methods=["uniform", "best"]'],
        [distil, "soup.distil.start=ls"],
        [distil, "sweep.distil.dropout=[0.1, 0.2]"],
    ):
        with pytest.raises(JobError, match=r"train\.labels = 'all' leaves no label to choose or learn by"):
            runs.change_job(all_labels, *asked)
    with pytest.raises(JobError, match=r"soup\.distil\.patience: train\.labels = 'all' leaves no label to judge"):
        runs.change_job(all_labels, distil, "soup.distil.patience=3")
    runs.change_job(all_labels, 'soup.methods=["best", "ensemble"]', "train.ingredients=1")
    job = runs.change_job(all_labels, "name=imported", "train.labels=training", 'soup.methods=["ls", "uniform"]')
    runs.prepare(job, runs.ALONE, runs.QUIET)
    import_files(
        job, [RunDir.of(all_labels).ingredient(index) for index in range(2)], "", runs.ALONE, runs.CPU, runs.QUIET
    )
    with pytest.raises(RunError, match=r"0000\.h5 was trained on validation labels too .* by which ls would choose or"):
        runs.soup_run(job)
    runs.soup_run(runs.change_job(job, 'soup.methods=["uniform"]'))
    with pytest.raises(RunError, match=r"by which distil would choose or learn: .*; distil with train\.labels = 'all'"):
        runs.soup_run(runs.change_job(job, distil))
    runs.soup_run(runs.change_job(job, distil, "train.labels=all", "soup.distil.epochs=1"))


@pytest.mark.parametrize("start", ["uniform", "scratch"])
def test_distil_keeps_its_last_epoch_where_all_labels_were_trained_on(all_labels: Job, start: str) -> None:
    """It is the only one that is judged; the start is no candidate, though epochs at such a rate make it worse."""
    asked = runs.change_job(
        all_labels,
        'soup.methods=["uniform", "distil"]',
        f"soup.distil.start={start}",
        "soup.distil.epochs=3",
        "soup.distil.learning_rate=1000",
        f"soup.distil.union={all_labels.partition.parts}",
    )
    runs.soup_run(asked)
    uniform, made = (soup_store.read(RunDir.of(asked).soup(name)) for name in ("uniform", "distil"))
    assert np.isnan([step.accuracy for step in made.mixture.history]).tolist() == [True, True, False]
    assert made.mixture.history[-1].accuracy == pytest.approx(made.validation_accuracy)
    assert made.state is not None
    assert uniform.state is not None
    assert made.validation_accuracy <= uniform.validation_accuracy
    assert all(not torch.equal(tensor, uniform.state[name]) for name, tensor in made.state.items())
    assert made.counts["backward_whole"] == 3
    assert made.counts["forward_whole"] == 2 + 3 + 1  # the teacher's, of steps, the last one's metric


@pytest.mark.parametrize("labels", LABELS)
def test_distil_learns_the_labels_that_ingredients_were_trained_on(all_labels: Job, labels: Labels) -> None:
    """Of training nodes, or of validation nodes too, in the share that is asked for."""
    job = runs.change_job(all_labels, f"train.labels={labels}")
    options = DistilJob(epochs=1, union=job.partition.parts, dropout=0.0, start="uniform")
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph, runs.open_mixtures(all_labels) as mixtures:
        losses = []
        for share in (0.0, 0.5):
            context = SoupContext(mixtures, 0, runs.QUIET, job=job)
            losses.append(context.distil(options.model_copy(update={"label_share": share}))[1][0].loss)
        view = loader.load_whole(graph, TRAINED_ROLES[labels])
        logits = mixtures.model.forward(mixtures.mix(torch.full((1, 2), 0.5, dtype=torch.float64), "model"), view.graph)
    own = float(torch.nn.functional.cross_entropy(logits[view.seeds], view.targets))
    assert losses[1] == pytest.approx((losses[0] + own) / 2, rel=1e-4)


def test_memory_is_estimated_for_the_nodes_that_are_trained_on(here: Job) -> None:
    net = Architecture("sage", 2, tiny.FEATURES, 16, tiny.CLASSES)
    with graph_store.open_graph(RunDir.of(here).graph, here) as graph:
        counts = [Sizes.of(graph, net, runs.CPU, labels).of_training.whole.seeds for labels in LABELS]
    assert counts == [90, 130]
