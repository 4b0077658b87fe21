"""Laws that every souping method obeys, over the table of all methods."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.engine.compiled.plan import Plan
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.protocol import SoupMethod
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.types import Role
from tests import runs

every_method = pytest.mark.parametrize("name", METHOD_NAMES)
LEARNED = ["ls", "pls"]


def method(name: str, job: Job, **options: Any) -> SoupMethod:
    """A method as the job configures it, with some options changed."""
    if not options:
        return make_methods(job.soup)[name]
    section = getattr(job.soup, name).model_copy(update=options)
    return make_methods(job.soup.model_copy(update={name: section}))[name]


def ingredients(job: Job) -> list[dict[str, Tensor]]:
    run = RunDir.of(job)
    return [ingredient_store.read(run.ingredient(index)).state for index in range(job.train.ingredients)]


def each_accuracy(station: MixtureEvaluator) -> list[float]:
    return [station.accuracy(Candidate(row[None])) for row in torch.eye(station.size, dtype=torch.float64)]


@pytest.fixture(scope="module")
def twins(stock: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The run with copies of its first ingredient in place of the others."""
    job = runs.copied(stock, tmp_path_factory.mktemp("twins"))
    run = RunDir.of(job)
    for index in range(1, job.train.ingredients):
        shutil.copy(run.ingredient(0), run.ingredient(index))
    return job


@every_method
def test_twins_cook_to_themselves(name: str, twins: Job) -> None:
    with runs.station(twins) as station:
        mixture = method(name, twins).cook(runs.kitchen(station))
        taste = Candidate(mixture.alpha, mixture.by, mixture.of)
        state, accuracy, own = station.state(taste), station.accuracy(taste), each_accuracy(station)[0]
    if state is None:
        assert accuracy == own
        return
    for parameter, wanted in ingredients(twins)[0].items():
        torch.testing.assert_close(state[parameter], wanted, atol=1e-6, rtol=1e-6)


@every_method
def test_rows_of_alpha_are_shares(name: str, stock: Job) -> None:
    alpha, groups = (mixture := runs.cook(method(name, stock), stock)).alpha, mixture.groups
    assert alpha.shape == (len(groups), 3)
    assert alpha.dtype == torch.float64
    assert bool((alpha >= 0.0).all())
    torch.testing.assert_close(alpha.sum(1), torch.ones(len(groups), dtype=torch.float64), atol=1e-12, rtol=0.0)
    assert len(set(groups)) == len(groups)


@pytest.mark.parametrize("name", LEARNED)
def test_shares_stay_shares_at_the_highest_rate(name: str, stock: Job) -> None:
    alpha = runs.cook(method(name, stock, optimiser="paper", learning_rate=1000.0, epochs=20), stock).alpha
    assert bool((alpha >= 0.0).all())
    torch.testing.assert_close(alpha.sum(1), torch.ones(2, dtype=torch.float64))


@every_method
def test_one_ingredient_cooks_to_itself(name: str, stock: Job) -> None:
    with runs.station(stock, ids=[1]) as station:
        mixture = method(name, stock).cook(runs.kitchen(station))
        state = station.state(Candidate(mixture.alpha, mixture.by, mixture.of))
    assert torch.equal(mixture.alpha, torch.ones_like(mixture.alpha))
    assert state is None or all(torch.equal(state[key], own) for key, own in ingredients(stock)[1].items())


@every_method
def test_permuting_ingredients_permutes_alpha(name: str, stock: Job) -> None:
    order = [2, 0, 1]
    straight, permuted = (runs.cook(method(name, stock), stock, ids) for ids in ([0, 1, 2], order))
    torch.testing.assert_close(permuted.alpha, straight.alpha[:, order], atol=1e-6, rtol=1e-6)


@every_method
def test_same_seed_same_alpha(name: str, stock: Job) -> None:
    once, again = (runs.cook(method(name, stock), stock, seed=4) for _ in range(2))
    assert torch.equal(once.alpha, again.alpha)


@pytest.mark.parametrize("name", LEARNED)
def test_another_seed_starts_elsewhere(name: str, stock: Job) -> None:
    one, other = (runs.cook(method(name, stock, optimiser="paper", epochs=1), stock, seed=seed) for seed in (4, 5))
    assert not torch.allclose(one.alpha, other.alpha, atol=1e-3)


def test_uniform_is_the_mean(stock: Job) -> None:
    with runs.station(stock) as station:
        mixture = method("uniform", stock).cook(runs.kitchen(station))
        state = station.state(Candidate(mixture.alpha))
    assert state is not None
    states = ingredients(stock)
    for name, found in state.items():
        torch.testing.assert_close(found, torch.stack([each[name] for each in states]).mean(0))


def test_best_is_the_first_of_the_most_accurate(stock: Job) -> None:
    with runs.station(stock) as station:
        accuracies = each_accuracy(station)
    alpha = runs.cook(method("best", stock), stock).alpha
    assert alpha.tolist() == [[float(index == accuracies.index(max(accuracies))) for index in range(3)]]


@pytest.mark.parametrize("name", ["best", "greedy", "gis"])
def test_never_below_the_best_ingredient_on_validation(name: str, stock: Job) -> None:
    with runs.station(stock) as station:
        mixture = method(name, stock).cook(runs.kitchen(station))
        reached, best = station.accuracy(Candidate(mixture.alpha, mixture.by)), max(each_accuracy(station))
    assert reached >= best
    assert all(step.accuracy == reached for step in mixture.history[-1:])


def test_with_all_parts_pls_is_ls(stock: Job) -> None:
    same = {"optimiser": "paper", "epochs": 5, "learning_rate": 7.0, "momentum": 0.5}
    ls = runs.cook(method("ls", stock, **same), stock)
    pls = runs.cook(method("pls", stock, **same, union=stock.partition.parts), stock)
    torch.testing.assert_close(pls.alpha, ls.alpha, atol=1e-9, rtol=1e-9)
    assert [step.loss for step in pls.history] == pytest.approx([step.loss for step in ls.history], abs=1e-6)


WAYS = {
    "lbfgs": {"optimiser": "lbfgs", "reuse": 4},
    "lbfgs-affine": {"optimiser": "lbfgs", "reuse": 4, "weights": "affine"},
    "adam": {"optimiser": "adam"},
    "adam-holdout": {"optimiser": "adam", "holdout": 0.4, "regularise": 0.1},
    "eg": {"optimiser": "eg"},
}
every_way = pytest.mark.parametrize("way", WAYS)
each_learned = pytest.mark.parametrize("name", LEARNED)


def by_way(name: str, way: str, job: Job, **more: Any) -> SoupMethod:
    """A learned method with an optimiser; LS has no options that are of unions."""
    options = WAYS[way] | more
    known = type(getattr(job.soup, name)).model_fields
    return method(name, job, **{key: value for key, value in options.items() if key in known})


@each_learned
@every_way
def test_twins_cook_to_themselves_by_every_optimiser(name: str, way: str, twins: Job) -> None:
    with runs.station(twins) as station:
        mixture = by_way(name, way, twins).cook(runs.kitchen(station))
        state = station.state(Candidate(mixture.alpha, mixture.by))
    assert state is not None
    for parameter, wanted in ingredients(twins)[0].items():
        torch.testing.assert_close(state[parameter], wanted, atol=1e-5, rtol=1e-5)


@each_learned
@every_way
def test_rows_of_alpha_sum_to_one_by_every_optimiser(name: str, way: str, stock: Job) -> None:
    alpha = runs.cook(by_way(name, way, stock), stock).alpha
    torch.testing.assert_close(alpha.sum(1), torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0.0)
    assert way == "lbfgs-affine" or bool((alpha >= 0.0).all())
    assert float((alpha - 1 / 3).abs().max()) > 1e-3  # it went somewhere


@each_learned
@every_way
def test_permuting_ingredients_permutes_alpha_by_every_optimiser(name: str, way: str, stock: Job) -> None:
    order = [2, 0, 1]
    straight, permuted = (runs.cook(by_way(name, way, stock), stock, ids) for ids in ([0, 1, 2], order))
    torch.testing.assert_close(permuted.alpha, straight.alpha[:, order], atol=1e-4, rtol=1e-4)


@every_way
def test_with_all_parts_pls_is_ls_by_every_optimiser(way: str, stock: Job) -> None:
    ls = runs.cook(by_way("ls", way, stock), stock)
    pls = runs.cook(by_way("pls", way, stock, union=stock.partition.parts), stock)
    torch.testing.assert_close(pls.alpha, ls.alpha, atol=1e-6, rtol=1e-6)
    assert [step.loss for step in pls.history] == pytest.approx([step.loss for step in ls.history], abs=1e-6)


@each_learned
@pytest.mark.parametrize("way", ["lbfgs", "adam", "eg"])
def test_every_optimiser_finds_the_one_trained_model(name: str, way: str, stock: Job, tmp_path: Path) -> None:
    job = one_trained(stock, tmp_path)
    alpha = runs.cook(by_way(name, way, job, epochs=25), job).alpha
    assert bool((alpha.argmax(1) == 1).all()), alpha


def one_trained(stock: Job, folder: Path) -> Job:
    """The run with a second ingredient among two that were never trained."""
    job = runs.copied(stock, folder)
    run = RunDir.of(job)
    with runs.station(job) as station:
        initial = station.architecture.init_state(job.train.seed)
        origin = ingredient_store.Origin.of(job, station.architecture, station.graph, "0" * 64, 0)
    for index in (0, 2):
        untrained = replace(ingredient_store.read(run.ingredient(index)), state=initial)
        ingredient_store.write(run.ingredient(index), untrained, origin, job)
    return job


def test_learned_souping_descends(stock: Job) -> None:
    """With small steps of one length, each step lowers the loss on the whole graph's validation nodes."""
    history = runs.cook(
        method("ls", stock, optimiser="paper", epochs=15, learning_rate=0.5, restart=10_000), stock
    ).history
    losses = [step.loss for step in history]
    assert all(after < before for before, after in pairwise(losses))


@pytest.mark.parametrize("name", LEARNED)
def test_learned_souping_finds_the_one_trained_model(name: str, stock: Job, tmp_path: Path) -> None:
    """Among two that were never trained."""
    job = one_trained(stock, tmp_path)
    alpha = runs.cook(method(name, job, optimiser="paper", epochs=60, learning_rate=20.0, restart=60), job).alpha
    assert bool((alpha.argmax(1) == 1).all()), alpha


@pytest.mark.parametrize("name", LEARNED)
def test_learning_rate_restarts(name: str, stock: Job) -> None:
    options = {"optimiser": "paper", "epochs": 10, "learning_rate": 3.0, "restart": 2, "restart_factor": 2}
    history = runs.cook(method(name, stock, **options), stock).history
    restarts = [step.step for step in history if step.learning_rate == 3.0]
    assert restarts == [1, 3, 7]
    assert [step.step for step in history] == list(range(1, 11))


@pytest.mark.parametrize(("by", "groups"), [("layer", 2), ("tensor", 6), ("model", 1)])
def test_groups_are_the_jobs(by: str, groups: int, stock: Job) -> None:
    mixture = runs.cook(method("ls", stock, alpha=by, epochs=1), stock)
    assert mixture.by == by
    assert len(mixture.groups) == len(mixture.alpha) == groups


@pytest.mark.parametrize("name", ["ls", "pls"])
def test_logits_are_judged_at_their_best_scale(name: str, stock: Job) -> None:
    plain, scaled = (method(name, stock, epochs=3, logit_scale=scale) for scale in (False, True))
    one, other = runs.cook(plain, stock), runs.cook(scaled, stock)
    assert other.history[0].loss < one.history[0].loss  # of the same models
    assert other.history[0].accuracy == one.history[0].accuracy
    assert not torch.equal(other.alpha, one.alpha)
    assert torch.isfinite(other.alpha).all()


PASSES = {  # of three ingredients, granularity 5, six steps: (forward whole, forward union, backward whole, union)
    "best": (3, 0, 0, 0),
    "uniform": (0, 0, 0, 0),
    "greedy": (5, 0, 0, 0),
    "gis": (9, 0, 0, 0),
    "ls": (6, 0, 6, 0),
    "pls": (0, 6, 0, 6),
    "ensemble": (0, 0, 0, 0),
}


@every_method
def test_passes_are_counted(name: str, stock: Job) -> None:
    with runs.station(stock) as station:
        kitchen = runs.kitchen(station)
        method(name, stock).cook(kitchen)
    counts = kitchen.counts
    kinds = ("forward_whole", "forward_union", "backward_whole", "backward_union")
    assert tuple(counts[kind] for kind in kinds) == PASSES[name]


def test_pls_never_holds_the_whole_graph(stock: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MixtureEvaluator, "whole", property(lambda self: pytest.fail("the whole graph was asked for")))
    runs.cook(method("pls", stock), stock)


def reachable(root: object) -> Iterator[object]:
    """Everything that can be reached from an object through attributes and elements."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type | ModuleType | FunctionType | MethodType | str | bytes):
            continue
        seen[id(value)] = value
        yield value
        waiting.extend(getattr(value, "__dict__", {}).values())
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend(value)


@every_method
def test_no_test_label_is_in_a_kitchen(name: str, stock: Job) -> None:
    """Every view shows validation nodes alone, and no array that is at hand holds a label of another node."""
    with graph_store.open_graph(RunDir.of(stock).graph, stock) as file:
        y, role = file.y(0, file.nodes), file.role(0, file.nodes)
    validation = y[role == Role.VALIDATION]
    with runs.station(stock) as station:
        kitchen = runs.kitchen(station)
        method(name, stock).cook(kitchen)
        if name != "pls":
            assert station.whole.size == len(y)
        held = [*reachable(kitchen), *reachable(next(kitchen.unions(3)))]
    views = [value for value in held if isinstance(value, Plan | Batch)]
    assert views
    for view in views:
        if view.size == len(y):
            assert np.array_equal(view.labels.numpy(), validation)
        assert len(view.labels) <= len(validation)
    secrets = [y, y[role == Role.TEST], y[role == Role.TRAIN]]
    for value in held:
        if isinstance(value, np.ndarray) or (isinstance(value, Tensor) and value.layout == torch.strided):
            assert not any(np.array_equal(np.asarray(value), secret) for secret in secrets)
