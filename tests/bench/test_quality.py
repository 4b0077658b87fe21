"""Time to quality: plain GIS is our GIS, the stop rule, what is extrapolated, the table, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.bench import child
from gnnsoup_hpc.bench.arguments import Options
from gnnsoup_hpc.bench.process import Figures
from gnnsoup_hpc.bench.quality import ours, parent, plain, results
from gnnsoup_hpc.bench.task import METHODS, PLAIN, QualityOrder, count_evaluations, read_order
from gnnsoup_hpc.config import GisJob, Job
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.io.records import MixingWeights, Step
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods.gis import Gis
from gnnsoup_hpc.soup.methods.learned import Learned
from tests import runs as runs

KINDS = [("sage", 1), ("gcn", 1), ("gat", 2)]


@pytest.fixture(scope="module", params=KINDS, ids=[kind for kind, _ in KINDS])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A tiny run of each kind, its ingredients trained."""
    kind, heads = request.param
    return runs.train_run(tmp_path_factory.mktemp(kind), kind=kind, heads=heads, ingredients=4)


def order(job: Job, what: str = PLAIN, **other: Any) -> QualityOrder:
    ids = tuple(range(job.train.ingredients))
    return QualityOrder(
        job.model_dump(mode="json"), ids, what, **({"passing": "time", "seed": 0, "threads": 1} | other)
    )


def silent(_: str) -> None:
    """Say nothing."""


def test_a_run_that_is_judged_by_no_accuracy_is_refused(run: Job) -> None:
    other = runs.change_job(run, "task.metric=f1_macro")
    with pytest.raises(JobError, match=r"--quality compares accuracies of classes, and the run has task.metric = 'f1_"):
        parent.select_run(other, silent)


def test_plain_gis_reaches_what_ours_reaches_step_by_step(run: Job) -> None:
    theirs, mine = child.run_quality_order(order(run)), child.run_quality_order(order(run, "gis"))
    assert [accuracy for _, _, accuracy in theirs["curve"]] == [accuracy for _, _, accuracy in mine["curve"]]
    assert theirs["validation_accuracy"] == mine["validation_accuracy"]
    assert len(theirs["evaluation_seconds"]) == theirs["evaluations"] == count_evaluations(4, 5) == 19


def test_a_model_that_takes_degrees_has_those_of_the_graph(tmp_path: Path) -> None:
    module = "model.kind=module", "model.factory=tests.models.modules:OffsetByDegree"
    job = runs.train_run(tmp_path, *module, "train.epochs=3", ingredients=2)
    assert parent.select_run(job, silent).ids == (0, 1)
    found = child.run_quality_order(order(job, "gis"))
    made = runs.run_method(Gis(job.soup.gis), job)
    assert found["validation_accuracy"] == made.history[-1].accuracy


@pytest.mark.parametrize("what", ["ls", "pls"])
def test_learned_methods_are_judged_along_the_way(run: Job, what: str) -> None:
    job = run.model_copy(update={"soup": run.soup.model_copy(update={what: long(getattr(run.soup, what))})})
    found = child.run_quality_order(order(job, what, judge_every=5))
    assert [step for step, _, _ in found["curve"]] == [*range(1, 11), 13]
    assert found["curve"][-1][2] == found["validation_accuracy"]
    seconds = [seconds for _, seconds, _ in found["curve"]]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= found["seconds"]


def long(options: Any) -> Any:
    """Thirteen steps: L-BFGS would end where it likes."""
    return options.model_copy(update={"optimiser": "adam", "epochs": 13})


def test_a_trace_has_the_alphas_of_every_step(trained: Job) -> None:
    options = trained.soup.ls.model_copy(update={"epochs": 4})
    steps: list[tuple[int, torch.Tensor]] = []
    with runs.open_mixtures(trained) as mixtures:
        found = Learned(options).run(SoupContext(mixtures, 0, runs.QUIET, lambda *step: steps.append(step)))
        shorter = Learned(options.model_copy(update={"epochs": 2})).run(runs.make_context(mixtures))
    assert [number for number, _ in steps] == [1, 2, 3, 4]
    assert torch.equal(steps[-1][1], found.alpha)
    assert torch.equal(steps[1][1], shorter.alpha)


def test_seconds_of_a_steps_end_are_counted_back_from_gis_own_end() -> None:
    history = tuple(
        Step(n, 0.0, accuracy, 0.0, seconds) for n, accuracy, seconds in [(1, 0.5, 0), (2, 0.6, 2), (3, 0.7, 3)]
    )
    curve = ours.describe_step(MixingWeights(torch.ones(1, 3), ("model",), history=history), 10.0)
    assert curve == [[1, 5.0, 0.5], [2, 7.0, 0.6], [3, 10.0, 0.7]]


def test_which_steps_are_judged() -> None:
    assert ours.choose_judged_steps(23, 5) == [*range(1, 11), 15, 20, 23]
    assert ours.choose_judged_steps(3, 5) == [1, 2, 3]
    assert ours.choose_judged_steps(12, 100) == [*range(1, 11), 12]


def test_greedy_interpolation_of_made_up_accuracies() -> None:
    """A model is one number, and the nearer to 0.6 the better: from 0.5 it is reached with 0.9 at a = 0.75."""
    states = [{"w": torch.tensor(value)} for value in (0.0, 0.5, 0.9)]
    reached = list(plain.run_in_full(states, 5, lambda state: 1.0 - abs(float(state["w"]) - 0.6)))
    assert reached == pytest.approx([0.9, 1.0, 1.0], abs=1e-6)


def test_extrapolation_counts_samples_once_and_the_rest_as_their_median() -> None:
    assert plain.extrapolate(10.0, [1.0, 2.0, 6.0], 148) == 10.0 + 9.0 + 145 * 2.0
    assert plain.extrapolate(10.0, [1.0, 2.0], 2) == 13.0


def test_a_sample_knows_no_accuracy(trained: Job) -> None:
    found = child.run_quality_order(order(trained, sampled=3))
    assert (found["validation_accuracy"], found["curve"], len(found["evaluation_seconds"])) == (None, [], 3)
    assert found["evaluations"] == 13
    assert found["seconds"] > sum(found["evaluation_seconds"]) + found["prepare_seconds"]


def test_a_sample_of_all_is_the_whole(trained: Job) -> None:
    assert child.run_quality_order(order(trained, sampled=13))["validation_accuracy"] is not None


def test_the_stop_rule() -> None:
    curve = [[1, 0.5, 0.700], [2, 0.9, 0.7190], [3, 1.4, 0.710], [4, 2.0, 0.730]]
    assert results.first_within(curve, 0.720) == [2, 0.9, 0.7190]  # 0.1 points below are near enough, to the last bit
    assert results.first_within(curve, 0.7201) == [4, 2.0, 0.730]
    assert results.first_within(curve, 0.7311) is None
    assert results.first_within(curve, None) is None


def test_an_order_survives_its_json(trained: Job) -> None:
    ordered = order(trained, "pls", seed=3, sampled=2, judge_every=7, memory_bytes=5)
    assert read_order(json.dumps(asdict(ordered))) == ordered
    assert ordered.read_job() == trained


def test_learned_methods_are_repeated_with_the_next_seeds(trained: Job) -> None:
    subject = parent.select_run(trained, silent)
    ordered = list(parent.list_orders(subject, Options(seeds=3)))
    first = trained.soup.seed
    assert [(one.what, one.seed) for one in ordered if one.passing == "time"] == [
        (PLAIN, first),
        ("gis", first),
        *((what, first + more) for what in ("ls", "pls") for more in range(3)),
    ]
    assert [one.what for one in ordered if one.passing == "memory"] == [PLAIN, *METHODS]
    assert {one.sampled for one in ordered} == {0}


def test_large_graphs_are_sampled_unless_told_otherwise(trained: Job) -> None:
    subject = parent.select_run(trained, silent)
    large = replace(subject, about=subject.about | {"nodes": parent.SMALL_NODES + 1, "evaluations": 148})
    assert next(parent.list_orders(large, Options())).sampled == parent.SAMPLED
    assert next(parent.list_orders(large, Options(sample_evaluations=0))).sampled == 0


def test_gis_accuracy_must_come_from_somewhere(trained: Job) -> None:
    subject = parent.select_run(trained, silent)
    assert list(parent.list_orders(subject, Options(methods=("pls",), sample_evaluations=0)))
    with pytest.raises(RunError, match="add gis, or"):
        list(parent.list_orders(subject, Options(methods=("pls",), sample_evaluations=2)))


def figures(times: Sequence[float], accuracies: Sequence[float]) -> Figures:
    """One run a time, each with one judged step at half of it."""
    runs = [
        {"seed": seed, "seconds": time, "curve": [[1, time / 2, accuracy]], "validation_accuracy": accuracy}
        for seed, (time, accuracy) in enumerate(zip(times, accuracies, strict=True))
    ]
    return Figures(runs, {"peak_bytes": 3e6, "baseline_bytes": 1e6})


def plain_figures(seconds: float) -> Figures:
    run = {"seed": 0, "seconds": seconds, "curve": [], "validation_accuracy": None}
    run |= {"evaluation_seconds": [1.0, 1.0], "evaluations": 148}
    return Figures([run], {"peak_bytes": 11e6, "baseline_bytes": 1e6})


def made_up(job: Job, **found: Figures) -> dict[str, Any]:
    cores = {"cpu": "some", "cores": 2, "threads": 1, "date": "2026-01-01T00:00:00+00:00"}
    return results.make_document(parent.select_run(job, silent).about, cores, found)


def test_figures_of_the_document(trained: Job) -> None:
    pls = figures([4.0, 8.0, 2.0], [0.7, 0.6995, 0.5])
    document = made_up(trained, plain=plain_figures(200.0), gis=figures([20.0], [0.7]), pls=pls)
    _, gis, learned = document["methods"]
    assert document["target"] == 0.7
    assert (gis["plain_gis_over_it"], gis["our_gis_over_it"]) == (10.0, 1.0)
    assert (learned["seconds_to_quality"], learned["reached"]) == (4.0, 2)
    assert learned["seconds_to_quality_range"] == [2.0, None]  # one of three never got there
    assert (learned["plain_gis_over_it"], learned["our_gis_over_it"]) == (50.0, 5.0)
    assert learned["memory_reduction"] == pytest.approx(0.8)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_table_says_what_must_be_said(trained: Job) -> None:
    failed = Figures(errors=["time: ended by SIGKILL"])
    gis, never = figures([20.0], [0.7]), figures([4.0], [0.6])
    text = results.show_document(made_up(trained, plain=plain_figures(200.0), gis=gis, ls=failed, pls=never))
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert set(rows) == {"method", "---", "plain GIS", *METHODS}
    assert "200.00*" in rows["plain GIS"]
    assert "0.7000*" in rows["plain GIS"]
    assert "from 2 of 148 evaluations" in text
    assert "failed" in rows["ls"]
    assert "ls: time: ended by SIGKILL" in text
    assert "never" in rows["pls"]
    assert "pls: not within 0.1 points of GIS at any judged step in 1 of 1" in text


def test_without_gis_accuracy_nothing_is_said_to_have_reached_it(trained: Job) -> None:
    gis = Figures(errors=["time: no"])
    text = results.show_document(made_up(trained, plain=plain_figures(200.0), gis=gis))
    assert "not known" in text
    assert "never" not in text


def test_a_run_is_named_by_its_folder_or_its_job(trained: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = runs.copy_run(trained, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    found = parent.find_job("elsewhere/runs/tiny")
    assert RunDir.of(found).root == RunDir.of(moved).root
    (tmp_path / "job.toml").write_text(trained.model_copy(update={"runs": "there"}).to_toml(), encoding="utf-8")
    assert RunDir.of(parent.find_job("job.toml")).root == tmp_path / "there" / "tiny"
    assert parent.find_job("job.toml", ["soup.seed=3"]).soup.seed == 3


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no job\.toml"):
        parent.find_job(str(tmp_path))
    with pytest.raises(JobError, match="no job file"):
        parent.find_job(str(tmp_path / "none"))


def test_an_untrained_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], own_excepthook: None) -> None:
    job = runs.prepare_run(tmp_path)
    path = tmp_path / "job.toml"
    path.write_text(job.to_toml(), encoding="utf-8")
    assert main(["bench", "--quality", str(path)]) == RunError.exit_code
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert "holds no ingredient of this job: run `gnnsoup train JOB` first" in line


def test_one_ingredient_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="two or more"):
        parent.select_run(runs.train_run(tmp_path, ingredients=1), silent)


def test_a_failing_child_is_one_line_and_given_up(trained: Job, tmp_path: Path) -> None:
    said: list[str] = []
    broken = order(trained.model_copy(update={"runs": str(tmp_path)}), "pls")
    found = parent.run_orders([broken, replace(broken, passing="memory")], 120.0, said.append)["pls"]
    (line,) = said
    assert "graph.h5" in line
    assert found.errors
    assert found.times == []


def test_the_whole_command(
    trained: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_excepthook: None
) -> None:
    out = tmp_path / "quality.json"
    words = ["--quality", str(RunDir.of(trained).root), "--methods", "pls", "--threads", "1", "--output", str(out)]
    assert main(["bench", *words]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert results.show_document(document) == capsys.readouterr().out.strip()
    first, pls = document["methods"]
    assert [row["method"] for row in (first, pls)] == [PLAIN, "pls"]
    assert first["plain_gis_over_it"] == 1.0
    assert pls["runs"][0]["curve"][-1][0] == trained.soup.pls.epochs
    assert pls["plain_gis_over_its_end"] == first["seconds"] / pls["seconds"]
    mixture = runs.run_method(Gis(GisJob(granularity=5)), trained)
    assert document["target"] == mixture.history[-1].accuracy
