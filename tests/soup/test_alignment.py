"""Alignment in a run: what `soup.align` decides, what soups are then made of, what is kept and what is made again."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc.alignment.symmetry import permute
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.evaluation import evaluator
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import Alignment
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.alignment import align_ingredients
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.types import Role, State
from tests import runs
from tests.error_rate import ErrorRate
from tests.faults.kit import flip

MODELS = {"sage": {}, "gat": {"kind": "gat", "heads": 2, "norm": "layer"}}


@pytest.fixture(scope="module", params=MODELS)
def strangers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run whose ingredients have shuffled units."""
    return runs.shuffle_units(runs.train_run(tmp_path_factory.mktemp(request.param), **MODELS[request.param]))


@pytest.fixture
def run(strangers: Job, tmp_path: Path) -> Job:
    return runs.copy_run(strangers, tmp_path)


def ingredient(job: Job, index: int) -> State:
    return ingredient_store.read(RunDir.of(job).ingredient(index)).state


def align(job: Job, mixtures: Mixtures, again: bool = True) -> Alignment | None:
    read = {index: ingredient_store.read(RunDir.of(job).ingredient(index)) for index in mixtures.ids}
    fit = {index: states.sha256(each.state) for index, each in read.items()}
    accuracies = {index: each.validation_accuracy for index, each in read.items()}
    align_ingredients(job, mixtures, Selection(fit, {}, accuracies), runs.QUIET, again)
    return mixtures.alignment


def find(job: Job, *overrides: str, memory: int = 1 << 30) -> Alignment | None:
    job = runs.change_job(job, *overrides)
    with runs.open_mixtures(job, memory=memory) as mixtures:
        return align(job, mixtures)


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_soups_are_reproduced_from_what_their_files_hold(run: Job, by: str) -> None:
    """The state is alpha times the ingredients, each permuted as the file says."""
    runs.soup_run(runs.change_job(run, f"soup.align={by}"))
    for name in METHOD_NAMES:
        soup = soup_store.read(RunDir.of(run).soup(name))
        assert soup.alignment is not None
        assert soup.alignment.by == by
        if soup.state is None:
            continue
        with runs.open_mixtures(run) as mixtures:
            net = mixtures.model
        permuted_ones = [permute(net, ingredient(run, i), soup.alignment.of(i)) for i in soup.alignment.ids]
        groups = net.groups(soup.mixture.by)
        for row, group in zip(soup.mixture.alpha, soup.mixture.groups, strict=True):
            for parameter in groups[group]:
                wanted = sum(share * each[parameter].double() for share, each in zip(row, permuted_ones, strict=True))
                torch.testing.assert_close(soup.state[parameter].double(), wanted, atol=1e-6, rtol=1e-6)


def test_units_are_found_again(run: Job, trained: Job) -> None:
    """Ingredients of one start, then shuffled: matched to the reference, they are what they were, in its order."""
    original = find(run, "soup.align=weights")
    assert original is not None
    reference = ingredient_store.read(RunDir.of(run).ingredient(original.reference))
    recorded = [ingredient_store.read(RunDir.of(run).ingredient(i)).validation_accuracy for i in range(3)]
    assert original.reference == recorded.index(max(recorded))
    with runs.open_mixtures(run) as mixtures:
        net = mixtures.model
    first = next(iter(original.orders))
    assert (original.of(original.reference)[first] == np.arange(16)).all()
    for index in range(3):
        moved = permute(net, ingredient(run, index), original.of(index))
        name = "convs.0.lin.weight" if net.kind == "gat" else "convs.0.lin_l.weight"
        nearest = torch.cdist(reference.state[name], moved[name]).argmin(1)
        assert float((nearest == torch.arange(16)).float().mean()) > 0.8


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_the_uniform_soup_of_shuffled_copies_is_the_model(trained: Job, tmp_path: Path, by: str) -> None:
    job = runs.shuffle_units(runs.copy_run(trained, tmp_path), copies=True)
    runs.soup_run(runs.change_job(job, f"soup.align={by}", "soup.methods=['uniform']"))
    soup = soup_store.read(RunDir.of(job).soup("uniform"))
    assert soup.state is not None
    for name, tensor in ingredient(job, 0).items():
        torch.testing.assert_close(soup.state[name], tensor, atol=1e-6, rtol=1e-6)


def test_best_and_ensemble_do_not_change(run: Job) -> None:
    accuracies = []
    for by in ("none", "weights"):
        runs.soup_run(runs.change_job(run, f"soup.align={by}", "soup.methods=['best', 'ensemble']"))
        soups = [soup_store.read(RunDir.of(run).soup(name)) for name in ("best", "ensemble")]
        accuracies.append(
            [(soup.validation_accuracy, soup.test_accuracy, soup.mixture.alpha.tolist()) for soup in soups]
        )
    assert accuracies[0] == accuracies[1]


def test_ingredients_of_one_basin_are_left_as_they_are(finished: Job) -> None:
    assert finished.soup.align == "auto"
    assert all(soup_store.read(RunDir.of(finished).soup(name)).alignment is None for name in METHOD_NAMES)
    made = alignment_store.read(RunDir.of(finished).alignment)
    assert made.alignment.by == "none"
    assert made.measurement["seconds"] > 0.0
    alignment = read_contents(RunDir.of(finished).root).alignment
    assert alignment is not None
    assert alignment.text.startswith("no alignment needed: shared initial state; uniform soup 0.")


def test_auto_takes_nothing_else_than_weights_where_it_takes_them(run: Job) -> None:
    auto, weights = find(run), find(run, "soup.align=weights")
    assert weights is not None
    if auto is not None:
        assert alignment_store.sha256(auto) == alignment_store.sha256(weights)


@pytest.mark.parametrize("higher", [True, False], ids=["high is good", "low is good"])
@pytest.mark.parametrize(
    ("shared", "before", "after", "by"),
    [
        (True, -0.9, None, "none"),  # no barrier beyond the error: not even tried
        (True, -3.0, -0.5, "weights"),
        (True, -3.0, -2.5, "none"),  # better, but not by more than the error
        (True, -3.0, -6.0, "none"),
        (False, 0.0, 0.5, "none"),
        (False, -3.0, -0.5, "weights"),
        (False, -0.5, 1.0, "weights"),
    ],
)
def test_auto_by_the_barrier(
    run: Job,
    monkeypatch: pytest.MonkeyPatch,
    shared: bool,
    before: float,
    after: float | None,
    by: str,
    higher: bool,
) -> None:
    """Metrics of the mean, in errors better than the ingredients' own."""
    if not higher:
        monkeypatch.setattr(evaluator, "make_task", lambda job, graph: ErrorRate(graph.classes))
    recorded = [ingredient_store.read(RunDir.of(run).ingredient(i)).validation_accuracy for i in range(3)]
    own = sum(recorded) / 3
    starts = iter("aaa" if shared else "abc")
    monkeypatch.setattr(ingredient_store, "origin", lambda path: {"initial_sha256": next(starts)})
    with runs.open_mixtures(run) as mixtures:
        error = 2 * mixtures.evaluator.task.error(own, int(mixtures.graph.validation_counts.sum()))
        better = error if higher else -error
        given = iter([own + times * better for times in (before, after) if times is not None])
        aligned_then: list[bool] = []

        def metrics(candidates: Sequence[Candidate]) -> list[float]:
            aligned_then.append(mixtures.alignment is not None)
            assert [candidate.alpha.tolist() for candidate in candidates] == [[[1 / 3] * 3]]
            return [next(given)]

        monkeypatch.setattr(mixtures, "metrics", metrics)
        alignment = align(run, mixtures)
    assert (alignment.by if alignment else "none") == by
    assert aligned_then == ([False] if after is None else [False, True])
    assert list(given) == []


def test_memory_does_not_change_what_activations_find(run: Job) -> None:
    """With no room for sums, one ingredient at a time."""
    much, little = (find(run, "soup.align=activations", memory=memory) for memory in (1 << 30, 0))
    assert much is not None
    assert little is not None
    assert alignment_store.sha256(much) == alignment_store.sha256(little)


def test_other_unions_see_the_same_nodes(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part once, whatever the union."""
    seen: list[int] = []
    load_union = loader.load_union

    def noted(graph: GraphFile, chosen: Sequence[int], role: Role, *more: object) -> Batch:
        batch = load_union(graph, chosen, role, *more)  # type: ignore[arg-type]
        seen.append(len(batch.seeds))
        return batch

    monkeypatch.setattr(loader, "load_union", noted)
    for size in (1, 3, 8):
        job = runs.change_job(run, f"soup.pls.union={size}", "soup.align=activations")
        with runs.open_mixtures(job) as mixtures:
            align(job, mixtures)
            validation = int(mixtures.graph.validation_counts.sum())
        assert sum(seen) == validation
        assert len(seen) == math.ceil(8 / size)
        seen.clear()


def test_what_is_there_is_kept(run: Job) -> None:
    job = runs.change_job(run, "soup.align=weights")
    path = RunDir.of(job).alignment
    with runs.open_mixtures(job) as mixtures:
        first = align(job, mixtures, again=False)
        inode = path.stat().st_ino
        second = align(job, mixtures, again=False)
        assert path.stat().st_ino == inode
        assert first is not None
        assert second is not None
        assert alignment_store.sha256(first) == alignment_store.sha256(second)
        flip(path, 0.7)
        third = align(job, mixtures, again=False)
        assert path.stat().st_ino != inode
        assert third is not None
        assert alignment_store.sha256(third) == alignment_store.sha256(first)
        assert align(runs.change_job(run, "soup.align=none"), mixtures, again=False) is None


def test_soups_are_made_again_where_the_alignment_changes(run: Job, capsys: pytest.CaptureFixture[str]) -> None:
    only = "soup.methods=['uniform']"
    for by, made in (("none", True), ("none", False), ("weights", True), ("weights", False), ("none", True)):
        runs.soup_run(runs.change_job(run, f"soup.align={by}", only))
        assert ("soup: uniform done" in capsys.readouterr().out) == made, by


def test_a_report_refuses_soups_of_another_alignment(run: Job) -> None:
    only = "soup.methods=['uniform', 'best']"
    runs.soup_run(runs.change_job(run, "soup.align=none", only))
    old = RunDir.of(run).soup("best").read_bytes()
    runs.soup_run(runs.change_job(run, "soup.align=weights", only))
    report = read_contents(RunDir.of(run).root)
    assert report.alignment is not None
    assert re.fullmatch(r"aligned to 000\d by weights: set by soup.align", report.alignment.text)
    assert [phase.name for phase in report.phases] == ["prepare", "train", "align", "soup"]
    RunDir.of(run).soup("best").write_bytes(old)
    with pytest.raises(RunError, match=r"best.h5 was made of ingredients that were aligned otherwise"):
        read_contents(RunDir.of(run).root)


@pytest.mark.parametrize("ids", [[0], [0, 1]])
def test_where_nothing_can_be_aligned_nothing_is_asked(
    trained: Job, ids: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ingredient; or models of one layer."""
    with runs.open_mixtures(trained, ids) as mixtures:
        if len(ids) > 1:
            mixtures.model = Architecture("sage", 1, 12, 16, 3)
        monkeypatch.setattr(mixtures, "metrics", lambda _: pytest.fail("a metric was asked for"))
        assert align(trained, mixtures) is None


def test_an_alignment_comes_back_from_its_file(run: Job) -> None:
    alignment = find(run, "soup.align=weights")
    back = alignment_store.read(RunDir.of(run).alignment).alignment
    assert alignment is not None
    assert (back.by, back.reference, back.ids) == (alignment.by, alignment.reference, alignment.ids)
    assert list(back.orders) == list(alignment.orders)
    assert all((back.orders[name] == order).all() for name, order in alignment.orders.items())


def test_an_unknown_way_to_align_is_one_clear_line() -> None:
    with pytest.raises(JobError) as caught:
        jobs.load("pubmed", ["soup.align=permute"])
    assert "soup.align" in str(caught.value)
    assert "'activations'" in str(caught.value)
    assert "\n" not in str(caught.value)
