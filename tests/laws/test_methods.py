"""Laws that every souping method obeys, over the table of all methods, and of both learned ones by every optimiser."""

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
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan
from gnnsoup_hpc.evaluation.evaluator import Evaluator
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.methods import SoupMethod, make_methods
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.types import Role
from tests import runs

LEARNED = ["ls", "pls"]
WAYS: dict[str, dict[str, Any]] = {
    "lbfgs": {"optimiser": "lbfgs", "reuse": 4},
    "lbfgs-affine": {"optimiser": "lbfgs", "reuse": 4, "weights": "affine"},
    "adam": {"optimiser": "adam"},
    "adam-holdout": {"optimiser": "adam", "holdout": 0.4, "regularise": 0.1},
    "eg": {"optimiser": "eg"},
}
CASES = {  # method, way
    **{name: (name, "") for name in METHOD_NAMES},
    **{f"{name}-{way}": (name, way) for name in LEARNED for way in WAYS},
}
every_method = pytest.mark.parametrize("name", METHOD_NAMES)
every_case = pytest.mark.parametrize(("name", "way"), CASES.values(), ids=CASES)
every_way = pytest.mark.parametrize("way", WAYS)
each_learned = pytest.mark.parametrize("name", LEARNED)


def method(name: str, job: Job, **options: Any) -> SoupMethod:
    """A method as the job configures it, with some options changed."""
    if not options:
        return make_methods(job.soup)[name]
    section = getattr(job.soup, name).model_copy(update=options)
    return make_methods(job.soup.model_copy(update={name: section}))[name]


def by_way(name: str, way: str, job: Job, **more: Any) -> SoupMethod:
    """A learned method with an optimiser, or any as the job configures it; LS has no options that are of unions."""
    options = WAYS.get(way, {}) | more
    known = type(getattr(job.soup, name)).model_fields if options else ()
    return method(name, job, **{key: value for key, value in options.items() if key in known})


def ingredients(job: Job) -> list[dict[str, Tensor]]:
    run = RunDir.of(job)
    return [ingredient_store.read(run.ingredient(index)).state for index in range(job.train.ingredients)]


def candidate_of(weights: MixingWeights) -> Candidate:
    return Candidate(weights.alpha, weights.by, weights.of, weights.state)


def metric_of_each(mixtures: Mixtures) -> list[float]:
    return mixtures.metrics([Candidate(row[None]) for row in torch.eye(len(mixtures.ids), dtype=torch.float64)])


@pytest.fixture(scope="module")
def twins(trained: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The run with copies of its first ingredient in place of the others."""
    job = runs.copy_run(trained, tmp_path_factory.mktemp("twins"))
    run = RunDir.of(job)
    for index in range(1, job.train.ingredients):
        shutil.copy(run.ingredient(0), run.ingredient(index))
    return job


mixed_case = pytest.mark.parametrize(
    ("name", "way"),
    [case for case in CASES.values() if case[0] != "distil"],
    ids=[key for key in CASES if key != "distil"],
)


@mixed_case
def test_a_soup_of_copies_is_the_model(name: str, way: str, twins: Job) -> None:
    with runs.open_mixtures(twins) as mixtures:
        candidate = candidate_of(by_way(name, way, twins).run(runs.make_context(mixtures)))
        state, (metric,), own = mixtures.state(candidate), mixtures.metrics([candidate]), metric_of_each(mixtures)[0]
    if state is None:
        assert metric == own
        return
    close = 1e-5 if way else 1e-6
    for parameter, wanted in ingredients(twins)[0].items():
        torch.testing.assert_close(state[parameter], wanted, atol=close, rtol=close)


@every_case
def test_rows_of_alpha_sum_to_one(name: str, way: str, trained: Job) -> None:
    """And are shares, but where weights are affine."""
    found = runs.run_method(by_way(name, way, trained), trained)
    alpha, groups = found.alpha, found.groups
    assert alpha.shape == (len(groups), 3)
    assert alpha.dtype == torch.float64
    assert way == "lbfgs-affine" or bool((alpha >= 0.0).all())
    torch.testing.assert_close(alpha.sum(1), torch.ones(len(groups), dtype=torch.float64), atol=1e-12, rtol=0.0)
    assert len(set(groups)) == len(groups)
    assert not way or float((alpha - 1 / 3).abs().max()) > 1e-3  # it went somewhere


@each_learned
def test_shares_stay_shares_at_the_highest_rate(name: str, trained: Job) -> None:
    alpha = runs.run_method(method(name, trained, optimiser="paper", learning_rate=1000.0, epochs=20), trained).alpha
    assert bool((alpha >= 0.0).all())
    torch.testing.assert_close(alpha.sum(1), torch.ones(2, dtype=torch.float64))


def test_what_is_distilled_of_copies_is_no_worse_than_the_model(twins: Job) -> None:
    """It is trained on, and its start counts; its alpha is its teacher's."""
    whole = method("distil", twins, union=twins.partition.parts)
    with runs.open_mixtures(twins) as mixtures:
        found = whole.run(runs.make_context(mixtures))
        (metric,), own = mixtures.metrics([candidate_of(found)]), metric_of_each(mixtures)[0]
    assert metric >= own
    assert torch.equal(found.alpha, torch.full((1, 3), 1 / 3, dtype=torch.float64))


@mixed_case
def test_a_soup_of_one_ingredient_is_that_ingredient(name: str, way: str, trained: Job) -> None:
    with runs.open_mixtures(trained, ids=[1]) as mixtures:
        found = by_way(name, way, trained).run(runs.make_context(mixtures))
        state = mixtures.state(candidate_of(found))
    assert torch.equal(found.alpha, torch.ones_like(found.alpha))
    assert state is None or all(torch.equal(state[key], own) for key, own in ingredients(trained)[1].items())


@every_case
def test_permuting_ingredients_permutes_alpha(name: str, way: str, trained: Job) -> None:
    order = [2, 0, 1]
    straight, permuted = (runs.run_method(by_way(name, way, trained), trained, ids) for ids in ([0, 1, 2], order))
    close = 1e-4 if way or name == "ls" else 1e-6  # where a search by L-BFGS ends, rounding moves it
    torch.testing.assert_close(permuted.alpha, straight.alpha[:, order], atol=close, rtol=close)


@every_case
def test_same_seed_same_alpha(name: str, way: str, trained: Job) -> None:
    once, again = (runs.run_method(by_way(name, way, trained), trained, seed=4) for _ in range(2))
    assert torch.equal(once.alpha, again.alpha)


@each_learned
def test_another_seed_starts_elsewhere(name: str, trained: Job) -> None:
    one, other = (
        runs.run_method(method(name, trained, optimiser="paper", epochs=1), trained, seed=seed) for seed in (4, 5)
    )
    assert not torch.allclose(one.alpha, other.alpha, atol=1e-3)


def test_uniform_is_the_mean(trained: Job) -> None:
    with runs.open_mixtures(trained) as mixtures:
        state = mixtures.state(candidate_of(method("uniform", trained).run(runs.make_context(mixtures))))
    assert state is not None
    states = ingredients(trained)
    for name, found in state.items():
        torch.testing.assert_close(found, torch.stack([each[name] for each in states]).mean(0))


def test_best_is_the_first_of_the_most_accurate(trained: Job) -> None:
    with runs.open_mixtures(trained) as mixtures:
        metrics = metric_of_each(mixtures)
    alpha = runs.run_method(method("best", trained), trained).alpha
    assert alpha.tolist() == [[float(index == metrics.index(max(metrics))) for index in range(3)]]


@pytest.mark.parametrize("name", ["best", "greedy", "gis"])
def test_never_below_the_best_ingredient_on_validation(name: str, trained: Job) -> None:
    with runs.open_mixtures(trained) as mixtures:
        found = method(name, trained).run(runs.make_context(mixtures))
        (reached,), best = mixtures.metrics([candidate_of(found)]), max(metric_of_each(mixtures))
    assert reached >= best
    assert all(step.accuracy == reached for step in found.history[-1:])


def test_with_all_parts_pls_is_ls(trained: Job) -> None:
    same = {"optimiser": "paper", "epochs": 5, "learning_rate": 7.0, "momentum": 0.5}
    ls = runs.run_method(method("ls", trained, **same), trained)
    pls = runs.run_method(method("pls", trained, **same, union=trained.partition.parts), trained)
    torch.testing.assert_close(pls.alpha, ls.alpha, atol=1e-9, rtol=1e-9)
    assert [step.loss for step in pls.history] == pytest.approx([step.loss for step in ls.history], abs=1e-6)


@every_way
def test_with_all_parts_pls_is_ls_by_every_optimiser(way: str, trained: Job) -> None:
    ls = runs.run_method(by_way("ls", way, trained), trained)
    pls = runs.run_method(by_way("pls", way, trained, union=trained.partition.parts), trained)
    torch.testing.assert_close(pls.alpha, ls.alpha, atol=1e-6, rtol=1e-6)
    assert [step.loss for step in pls.history] == pytest.approx([step.loss for step in ls.history], abs=1e-6)


@each_learned
@pytest.mark.parametrize("way", ["lbfgs", "adam", "eg"])
def test_every_optimiser_finds_the_one_trained_model(name: str, way: str, trained: Job, tmp_path: Path) -> None:
    job = one_trained(trained, tmp_path)
    alpha = runs.run_method(by_way(name, way, job, epochs=25), job).alpha
    assert bool((alpha.argmax(1) == 1).all()), alpha


def one_trained(trained: Job, folder: Path) -> Job:
    """The run with a second ingredient among two that were never trained."""
    job = runs.copy_run(trained, folder)
    run = RunDir.of(job)
    with runs.open_mixtures(job) as mixtures:
        initial = mixtures.model.init_state(job.train.seed)
        origin = ingredient_store.Origin.of(job, mixtures.model, mixtures.graph, "0" * 64, 0)
    for index in (0, 2):
        untrained = replace(ingredient_store.read(run.ingredient(index)), state=initial)
        ingredient_store.write(run.ingredient(index), untrained, origin, job)
    return job


def test_learned_souping_descends(trained: Job) -> None:
    """With small steps of one length, each step lowers the loss on the whole graph's validation nodes."""
    history = runs.run_method(
        method("ls", trained, optimiser="paper", epochs=15, learning_rate=0.5, restart=10_000), trained
    ).history
    losses = [step.loss for step in history]
    assert all(after < before for before, after in pairwise(losses))


@each_learned
def test_learned_souping_finds_the_one_trained_model(name: str, trained: Job, tmp_path: Path) -> None:
    """Among two that were never trained."""
    job = one_trained(trained, tmp_path)
    alpha = runs.run_method(method(name, job, optimiser="paper", epochs=60, learning_rate=20.0, restart=60), job).alpha
    assert bool((alpha.argmax(1) == 1).all()), alpha


@each_learned
def test_learning_rate_restarts(name: str, trained: Job) -> None:
    options = {"optimiser": "paper", "epochs": 10, "learning_rate": 3.0, "restart": 2, "restart_factor": 2}
    history = runs.run_method(method(name, trained, **options), trained).history
    restarts = [step.step for step in history if step.learning_rate == 3.0]
    assert restarts == [1, 3, 7]
    assert [step.step for step in history] == list(range(1, 11))


@pytest.mark.parametrize(("by", "groups"), [("layer", 2), ("tensor", 6), ("model", 1)])
def test_groups_are_the_jobs(by: str, groups: int, trained: Job) -> None:
    found = runs.run_method(method("ls", trained, alpha=by, epochs=1), trained)
    assert found.by == by
    assert len(found.groups) == len(found.alpha) == groups


@each_learned
def test_logits_are_judged_at_their_best_scale(name: str, trained: Job) -> None:
    plain, scaled = (method(name, trained, epochs=3, logit_scale=scale) for scale in (False, True))
    one, other = runs.run_method(plain, trained), runs.run_method(scaled, trained)
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
    "distil": (3, 27, 0, 12),
}


@every_method
def test_passes_are_counted(name: str, trained: Job) -> None:
    with runs.open_mixtures(trained) as mixtures:
        context = runs.make_context(mixtures)
        method(name, trained).run(context)
    kinds = ("forward_whole", "forward_union", "backward_whole", "backward_union")
    assert tuple(context.counts[kind] for kind in kinds) == PASSES[name]


def test_pls_never_holds_the_whole_graph(trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "plan", lambda *_, **__: pytest.fail("the whole graph was asked for"))
    monkeypatch.setattr(loader, "load_whole", lambda *_: pytest.fail("the whole graph was read"))
    runs.run_method(method("pls", trained), trained)


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
def test_no_test_label_is_in_a_context(name: str, trained: Job) -> None:
    """Every batch shows validation nodes alone, and no array that is at hand holds a label of another node."""
    with graph_store.open_graph(RunDir.of(trained).graph, trained) as file:
        y, role = file.y(0, file.nodes), file.role(0, file.nodes)
    validation = y[role == Role.VALIDATION]
    with runs.open_mixtures(trained) as mixtures:
        context = runs.make_context(mixtures)
        method(name, trained).run(context)
        with context.batches() as whole, context.batches(3, 1) as unions:
            held = [*reachable(next(whole)), *reachable(next(unions)), *reachable(context)]
    batches = [value for value in held if isinstance(value, CompiledPlan | Batch)]
    assert sum(batch.size == len(y) for batch in batches) > 0
    for batch in batches:
        if batch.size == len(y):
            assert np.array_equal(batch.targets.numpy(), validation)
        assert len(batch.targets) <= len(validation)
    secrets = [y, y[role == Role.TEST], y[role == Role.TRAIN]]
    for value in held:
        if isinstance(value, np.ndarray) or (isinstance(value, Tensor) and value.layout == torch.strided):
            assert not any(np.array_equal(np.asarray(value), secret) for secret in secrets)
