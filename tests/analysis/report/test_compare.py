"""Which runs are averaged, and which stand side by side."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gnnsoup_hpc.analysis.report.compare import compare_runs, error_of_mean
from gnnsoup_hpc.analysis.report.contents import Contents, read_contents
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.evaluation.tasks import Multiclass, Task
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.graph.graph import SourceFacts
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs as tiny_runs
from tests.error_rate import ErrorRate


@pytest.fixture(scope="module")
def run(finished: Job) -> Contents:
    return read_contents(RunDir.of(finished).root)


def variant(run: Contents, name: str, *overrides: str, gain: float = 0.0, sha256: str = "") -> Contents:
    """The run as if another job had made it: other ingredients, and test accuracies that are higher by `gain`."""
    ingredients = tuple(replace(one, test_accuracy=one.test_accuracy + gain) for one in run.ingredients)
    soups = tuple(
        replace(one, test_accuracy=one.test_accuracy + gain, ingredients_sha256=name * 64) for one in run.soups
    )
    job = tiny_runs.change_job(run.job, f"name={name}", *overrides)
    made = replace(run, run=RunDir(Path("runs") / name), job=job, ingredients=ingredients, soups=soups)
    made = replace(made, graph_made_with=identity.fields_used(job, SourceFacts()))
    return replace(made, source_sha256=sha256) if sha256 else made


def fewer(run: Contents, *methods: str) -> Contents:
    return replace(run, soups=tuple(soup for soup in run.soups if soup.method in methods))


def averaged(text: str) -> list[str]:
    """The runs of each mean, as it names them."""
    return [line for line in text.splitlines() if " runs: " in line]


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.seed=1",),
        ("soup.seed=1",),
        ("partition.seed=1",),
        ("graph.split_seed=1",),
        ("train.seed=1", "machine.threads=2", "machine.device=cpu", "train.checkpoint_seconds=1"),
        ("train.seed=1", "train.recipe=shared"),
        ("train.seed=1", "soup.diagnose=false", "soup.unfit=leave out", "graph.root=elsewhere"),
        ("train.seed=1", "graph.synthetic.seed=3"),  # of a graph that is not generated
    ],
)
def test_runs_that_differ_in_seeds_alone_are_averaged(run: Contents, overrides: tuple[str, ...]) -> None:
    text = compare_runs([run, variant(run, "a", *overrides)])
    assert averaged(text) == [f"2 runs: {run.run.root}, runs/a"]
    assert "more than their seeds" not in text


@pytest.mark.parametrize(("task", "sign", "wins"), [(ErrorRate(3, name="mae"), "+", 3), (Multiclass(3), "-", 0)])
def test_of_a_metric_of_which_low_is_good_less_is_a_gain(run: Contents, task: Task, sign: str, wins: int) -> None:
    """Three runs of which the soup `pls` has 0.01 less, and 0.02 and 0.03, than the best ingredient."""
    runs = []
    for number, name in enumerate("abc", 1):
        made = replace(variant(run, name, f"train.seed={number}"), task=task)
        soups = tuple(
            replace(soup, test_accuracy=made.best.test_accuracy - 0.01 * number) if soup.method == "pls" else soup
            for soup in made.soups
        )
        runs.append(replace(made, soups=soups))
    text = compare_runs(runs)
    (row,) = [line for line in text.splitlines() if line.startswith("pls ")]
    assert f"{sign}0.0200 ± 0.0100" in row
    assert f"{wins} of 3" in row
    assert ("a high one good" in text) != task.higher_is_better


def test_runs_of_several_metrics_stand_side_by_side(run: Contents) -> None:
    other = replace(variant(run, "a"), task=Multiclass(3, name="f1_macro"), means={"task.metric": "f1_macro"})
    text = compare_runs([run, other])
    assert "These runs differ in more than their seeds (task.metric)" in text
    assert "test: accuracy, macro F1; -: the run has no such soup." in text


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("model.hidden=32",), "model.hidden"),
        (("model.norm=layer",), "model.norm"),
        (("train.learning_rate=0.1",), "train.learning_rate"),
        (("train.vary.dropout=[0.1, 0.2]",), "train.vary.dropout"),
        (("train.start=snapshots",), "train.start"),
        (("train.trunk_epochs=2", "train.trunk_starts=2"), "train.trunk_epochs, train.trunk_starts"),
        (("graph.features=none",), "graph.features"),
        (("graph.undirected=false",), "graph.undirected"),
        (("graph.train_share=0.5",), "graph.train_share"),
        (("partition.parts=4",), "partition.parts"),
        (("soup.pls.union=2",), "soup.pls.union"),
        (("soup.align=none",), "soup.align"),
        (("soup.precision=bfloat16",), "soup.precision"),
    ],
)
def test_runs_that_differ_in_anything_else_are_not(run: Contents, overrides: tuple[str, ...], named: str) -> None:
    text = compare_runs([run, variant(run, "a", "train.seed=1", *overrides)])
    assert averaged(text) == []
    assert f"These runs differ in more than their seeds ({named}): no mean is taken over all." in text
    assert "±" not in text


def test_graphs_are_told_by_their_content(run: Contents) -> None:
    """0.8067 ± 0.1952 was once the mean over two graphs."""
    other = variant(run, "a", "train.seed=1", gain=-0.3, sha256="f" * 64)
    text = compare_runs([run, other])
    assert "differ in more than their seeds (graph):" in text
    best = run.soup("best")
    assert best is not None
    assert f"{best.test_accuracy:.4f}" in text
    assert f"{best.test_accuracy - 0.3:.4f}" in text
    assert "±" not in text
    moved = variant(run, "a", "train.seed=1", "graph.source=npz:elsewhere.npz")
    assert len(averaged(compare_runs([run, moved]))) == 1


def test_runs_with_other_numbers_of_ingredients_are_not_averaged(run: Contents) -> None:
    few = variant(run, "a", "train.seed=1")
    few = replace(few, ingredients=few.ingredients[:2])
    assert "differ in more than their seeds (ingredients):" in compare_runs([run, few])


def test_each_group_has_its_own_mean(run: Contents) -> None:
    runs = [variant(run, name, f"train.seed={number}") for number, name in enumerate("ab")]
    runs += [variant(run, name, f"train.seed={number}", "model.hidden=32") for number, name in enumerate("cde")]
    text = compare_runs([*runs[:3], runs[4], runs[3]])
    assert averaged(text) == ["2 runs: runs/a, runs/b", "3 runs: runs/c, runs/e, runs/d"]
    rows = [line.split()[:2] for line in text.splitlines() if line.startswith("runs/")]
    assert rows == [["runs/a", "16"], ["runs/b", "16"], ["runs/c", "32"], ["runs/e", "32"], ["runs/d", "32"]]


def test_a_run_counts_once(finished: Job, tmp_path: Path) -> None:
    root = RunDir.of(finished).root
    link = tmp_path / "link"
    link.symlink_to(root)
    copied = RunDir.of(tiny_runs.copy_run(finished, tmp_path)).root
    for other in (root, link, copied):
        text = compare_runs([read_contents(root), read_contents(other)])
        assert text == f"{other} is the same experiment as {root}, and is counted once."


def test_the_same_ingredients_souped_with_other_seeds_are_other_runs(run: Contents) -> None:
    again = replace(variant(run, "a", "soup.seed=1"), soups=run.soups)
    assert len(averaged(compare_runs([run, again]))) == 1
    renamed = replace(variant(run, "a", "train.seed=1"), soups=run.soups)  # a seed that changed nothing
    assert "is the same experiment as" in compare_runs([run, renamed])


def test_methods_that_some_runs_lack_are_in_no_mean_and_it_is_said(run: Contents) -> None:
    """Without `best`, an ensemble alone, or nothing in common."""
    other = fewer(variant(run, "a", "train.seed=1", gain=0.01), "gis", "ensemble")
    text = compare_runs([run, other])
    heads = [line.split()[0] for line in text.splitlines() if line]
    assert heads[1:4] == ["validation", "mean", "gis"]
    assert "Not in all of these runs, and so in no mean: best, distil, greedy, ls, pls, uniform." in text
    assert averaged(compare_runs([run, fewer(other, "ensemble")])) == [f"2 runs: {run.run.root}, runs/a"]
    nothing = compare_runs([fewer(run, "gis"), fewer(other, "ensemble")])
    assert "mean ingredient" in nothing
    assert "in no mean: ensemble, gis." in nothing
    apart = fewer(variant(run, "b", "model.hidden=32"), "gis")
    (row,) = [line for line in compare_runs([run, apart]).splitlines() if line.startswith("runs/b")]
    assert row.split()[-7:].count("-") == 6


def test_error_of_a_mean() -> None:
    """Student's t of the table: 4.303 for 2 degrees of freedom, 2.776 for 4."""
    assert error_of_mean([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert error_of_mean([1.0, 1.0, 2.0, 3.0, 3.0]) == pytest.approx(2.776 / math.sqrt(5), rel=1e-3)


def test_what_auto_came_to_decides_which_runs_are_averaged(run: Contents) -> None:
    """A run that PyTorch trained is no repeat of one of compiled kernels, whatever their jobs leave open."""
    other = variant(run, "a", "train.seed=1")
    torch = replace(other, ingredients=tuple(replace(one, engine="torch") for one in other.ingredients))
    assert averaged(compare_runs([run, other])) == [f"2 runs: {run.run.root}, runs/a"]
    text = compare_runs([run, torch])
    assert averaged(text) == []
    assert "differ in more than their seeds (train.engine)" in text
    said = replace(other, job=tiny_runs.change_job(other.job, "train.engine=compiled"))
    assert averaged(compare_runs([run, said])) == [f"2 runs: {run.run.root}, runs/a"]


def test_a_run_of_several_engines_says_so(run: Contents) -> None:
    first, *others = run.ingredients
    mixed = replace(run, ingredients=(replace(first, engine="torch"), *others))
    line = "trained by several engines, which draw dropout differently: compiled: 0001, 0002; torch: 0000"
    assert line in show_run(mixed).splitlines()
    assert "several engines" not in show_run(run)
