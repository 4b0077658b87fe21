"""Souping by several ranks gives what one rank gives: every method, model and optimiser, over threads and over MPI.

Every Comm here is a CheckingComm, so that a collective out of order is an error and no hang.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnnsoup_hpc import engine as engines
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import TorchEngine
from gnnsoup_hpc.errors import DivergedError, RunError
from gnnsoup_hpc.evaluation.evaluator import Way
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.runtime.launch import Threads
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.types import Role, State
from tests import runs, tiny
from tests.comms import CheckingComm, ThreadComm, ThreadWorld, WorldError, run_ranks
from tests.faults import kit
from tests.ranks import souping
from tests.ranks.souping import CASES, ROLES, assert_as_one_rank, run_case, soup_all

MODELS: dict[str, dict[str, Any]] = {
    "sage": {},
    "gcn": {"kind": "gcn", "norm": "layer"},
    "gat": {"kind": "gat", "heads": 2, "norm": "layer"},
}
THIRDS = torch.full((1, 3), 1 / 3, dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("sections_of_three_rows")


def on_ranks(size: int, function: Callable[[Comm], Any]) -> list[Any]:
    """Each rank's result."""
    return run_ranks(size, lambda comm: function(CheckingComm(comm)))


@pytest.fixture(scope="module")
def all_trained(trained: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """A run of three ingredients of each kind of model. Tests read them."""
    others = {
        name: runs.train_run(tmp_path_factory.mktemp(name), **options) for name, options in MODELS.items() if options
    }
    return {"sage": trained} | others


@pytest.fixture(scope="module")
def alone(all_trained: dict[str, Job]) -> Callable[[str, str], souping.Outcome]:
    """What one rank makes of a model by a case, made once."""
    made: dict[tuple[str, str], souping.Outcome] = {}

    def outcome(model: str, case: str) -> souping.Outcome:
        if (model, case) not in made:
            made[model, case] = run_case(SERIAL, all_trained[model], case)
        return made[model, case]

    return outcome


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one engine is one by which ranks cannot compute on a batch together."""
    monkeypatch.setattr(engines, "ENGINES", (TorchEngine(),))


def suits(model: str, case: str) -> bool:
    return not (model == "gat" and case == "pls-exact")  # it has no first aggregation


# One rank of many is one rank whatever the model.
TABLE = [
    pytest.param(model, case, size, marks=pytest.mark.slow if size == 1 and model != "sage" else ())
    for model in MODELS
    for case in CASES
    for size in (1, 2, 3)
    if suits(model, case)
]


@pytest.mark.parametrize(("model", "case", "size"), TABLE)
def test_every_method_gives_what_one_rank_gives(
    model: str, case: str, size: int, all_trained: dict[str, Job], alone: Callable[[str, str], souping.Outcome]
) -> None:
    found = on_ranks(size, lambda comm: run_case(comm, all_trained[model], case))
    assert_as_one_rank(found, alone(model, case))


@pytest.mark.parametrize("size", [4, 8])
def test_so_do_many_ranks_that_distil(
    size: int, trained: Job, alone: Callable[[str, str], souping.Outcome], tmp_path: Path
) -> None:
    """They make what they imitate too, for which there are fewer ingredients than ranks."""
    job = runs.copy_run(trained, tmp_path)
    RunDir.of(job).teacher(1.0).unlink(missing_ok=True)
    found = on_ranks(size, lambda comm: run_case(comm, job, "distil"))
    assert_as_one_rank(found, alone("sage", "distil"))


@pytest.mark.parametrize("case", ["gis", "ls", "pls", "ls-adam", "pls-lbfgs", "ensemble", "distil"])
def test_so_does_an_engine_that_ranks_cannot_share(case: str, trained: Job, torch_alone: None, tmp_path: Path) -> None:
    job = runs.copy_run(trained, tmp_path)  # for another engine's outputs are not what others' distil imitates
    one = run_case(SERIAL, job, case)
    assert_as_one_rank(on_ranks(2, lambda comm: run_case(comm, job, case)), one, close=0.0)


@pytest.mark.parametrize("case", ["greedy", "gis", "ensemble", "distil"])
def test_and_where_no_rank_can_hold_the_graph(case: str, trained: Job, tmp_path: Path) -> None:
    """With hardly any memory each rank streams it, as one does."""
    job = runs.copy_run(trained, tmp_path / "job")
    RunDir.of(job).teacher(1.0).unlink(missing_ok=True)
    one = run_case(SERIAL, job, case, memory=1, home=tmp_path / "one")
    found = on_ranks(2, lambda comm: run_case(comm, job, case, memory=1, home=tmp_path / str(comm.rank)))
    assert_as_one_rank(found, one, close=0.0)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("model", "ranks"),
    [("sage", 3), *(pytest.param(model, 2, marks=pytest.mark.slow) for model in ("gcn", "gat"))],
)
def test_over_mpi_too(
    model: str, ranks: int, all_trained: dict[str, Job], alone: Callable[[str, str], souping.Outcome], tmp_path: Path
) -> None:
    (tmp_path / "job.toml").write_text(all_trained[model].to_toml())
    cases = [case for case in CASES if suits(model, case)]
    words = [sys.executable, "-m", "tests.ranks.souping", str(tmp_path / "job.toml"), str(tmp_path / "out"), *cases]
    done = subprocess.run(
        [tiny.mpirun(), "-n", str(ranks), *words],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = pickle.loads((tmp_path / "out").read_bytes())
    assert list(outcomes) == cases
    for case, found in outcomes.items():
        assert len(found) == ranks
        assert_as_one_rank([souping.Outcome(**each) for each in found], alone(model, case))


# How ranks evaluate.


def states_of(mixtures: Mixtures, count: int) -> list[State]:
    return [mixtures.mix(THIRDS * (1.0 + 0.1 * number), "model") for number in range(count)]


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_metrics_come_in_the_order_of_the_models(
    size: int, count: int, divides: bool, trained: Job, request: pytest.FixtureRequest
) -> None:
    if not divides:
        request.getfixturevalue("torch_alone")

    def evaluate(comm: Comm) -> list[list[float]]:
        with runs.open_mixtures(trained, comm=comm) as mixtures:
            makers = [lambda state=state: [state] for state in states_of(mixtures, count)]
            return [mixtures.evaluator.metrics_of(makers, Role.VALIDATION) for _ in range(2)]

    one = evaluate(SERIAL)
    assert len(one[0]) == count
    assert on_ranks(size, evaluate) == [one] * size


def test_models_are_divided_evenly(trained: Job, torch_alone: None) -> None:
    def evaluate(comm: Comm) -> int:
        made = []
        with runs.open_mixtures(trained, comm=comm) as mixtures:
            (state,) = states_of(mixtures, 1)
            mixtures.evaluator.metrics_of([lambda: (made.append(1), [state])[1]] * 8, Role.VALIDATION)
        return len(made)

    assert on_ranks(3, evaluate) == [3, 3, 2]


def way_of(job: Job, size: int, count: int, memory: int = 1 << 30) -> Way:
    comm = ThreadComm(ThreadWorld(size), 0, size)
    with runs.open_mixtures(job, comm=comm, memory=memory) as mixtures:
        return mixtures.evaluator.choose_way(count)


@pytest.mark.parametrize(
    ("count", "way"),
    [(0, Way.ALONE), (1, Way.NODES), (3, Way.NODES), (8, Way.NODES), (20, Way.MODELS), (21, Way.MODELS)],
)
def test_few_models_are_evaluated_together_and_many_are_divided(count: int, way: Way, trained: Job) -> None:
    """For a rank that is given models of its own must read the whole graph first."""
    assert way_of(trained, 2, count) is way
    assert way_of(trained, 1, count) is Way.ALONE


def test_without_room_for_shares_models_are_divided(trained: Job) -> None:
    assert [way_of(trained, 2, count, memory=1) for count in (1, 3, 8)] == [Way.ALONE, Way.MODELS, Way.MODELS]


def test_an_engine_that_does_not_divide_divides_models(trained: Job, torch_alone: None) -> None:
    assert [way_of(trained, 2, count) for count in (1, 3, 8)] == [Way.ALONE, Way.MODELS, Way.MODELS]


def test_rank_0_has_the_others_threads_while_they_wait(trained: Job, torch_alone: None) -> None:
    """And gives them back. The other rank is one that waits."""
    before, during = torch.get_num_threads(), []

    def evaluate(comm: Comm) -> None:
        with runs.open_mixtures(trained, comm=comm) as mixtures:
            mixtures.settings = replace(mixtures.settings, threads=Threads(2 if comm.rank == 0 else 0))
            mixtures.clear()
            (state,) = states_of(mixtures, 1)
            mixtures.evaluator.metrics_of(
                [lambda: (during.append(torch.get_num_threads()), [state])[1]], Role.VALIDATION
            )

    on_ranks(2, evaluate)
    assert during == [2]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [2, 4])
def test_metrics_are_those_of_one_rank_node_by_node(
    model: str, size: int, all_trained: dict[str, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several ranks evaluate each candidate together, and none reads the whole graph."""
    candidates = [Candidate(row[None]) for row in torch.eye(3, dtype=torch.float64)]
    candidates += [Candidate(THIRDS), Candidate(THIRDS, of="predictions")]
    ends, shares = (candidates[0].alpha, (candidates[1].alpha + candidates[2].alpha) / 2), [0.0, 0.25, 0.5, 1.0, 0.75]

    def evaluate(comm: Comm) -> tuple[Any, list[float], list[float]]:
        with runs.open_mixtures(all_trained[model], comm=comm) as mixtures:
            marks = [mixtures.predictions(candidate, ROLES) for candidate in candidates]
            told = [(mark.metric, mark.right.tolist()) for each in marks for mark in each]
            return told, mixtures.metrics(candidates), mixtures.metrics_between(*ends, shares)

    one = evaluate(SERIAL)
    monkeypatch.setattr(loader, "load_whole", lambda *_: pytest.fail("the whole graph is read"))
    assert on_ranks(size, evaluate) == [one] * size


@pytest.mark.parametrize("parts", [None, 3])
@pytest.mark.parametrize("model", MODELS)
def test_every_rank_has_a_share_of_every_batch(model: str, parts: int | None, all_trained: dict[str, Job]) -> None:
    def spans(comm: Comm) -> list[tuple[tuple[int, int], int]]:
        with runs.open_mixtures(all_trained[model], comm=comm) as mixtures:
            context = runs.make_context(mixtures)
            with context.batches(parts, 4) as batches:
                return [(plan.local, len(plan.targets)) for plan in islice(batches, 4) if plan is not None]

    for shares in zip(*on_ranks(2, spans), strict=True):
        (first, count), (second, same) = shares
        assert count == same
        assert (first[0], first[1], second[1]) == (0, second[0], count)
        assert 0 < first[1] < count


# What goes wrong.


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_a_search_that_diverges_is_an_error_on_every_rank(
    size: int, divides: bool, trained: Job, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not divides:
        request.getfixturevalue("torch_alone")
    lost = {"epochs": 50, "optimiser": "paper", "weights": "free", "learning_rate": 1000.0}
    monkeypatch.setitem(CASES, "lost", ("ls", lost))

    def run(comm: Comm) -> str:
        with pytest.raises(DivergedError, match="ls diverged") as error:
            run_case(comm, trained, "lost")
        return str(error.value)

    assert len(set(on_ranks(size, run))) == 1


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", ["gis", "ls-lbfgs", "pls-paper"])
def test_a_rank_that_raises_inside_a_method_ends_all(
    case: str, rank: int, divides: bool, trained: Job, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By way of the launcher; here the others hear that it has ended."""
    if not divides:
        request.getfixturevalue("torch_alone")
    real = {name: getattr(SoupContext, name) for name in ("loss_and_gradient", "scores_between")}
    ended = []

    def planted(name: str) -> Callable[..., Any]:
        calls = []

        def method(self: SoupContext, *arguments: Any, **more: Any) -> Any:
            if self.comm.rank == rank:
                calls.append(1)
                if len(calls) == 2:
                    raise ZeroDivisionError("planted")
            return real[name](self, *arguments, **more)

        return method

    for name in real:
        monkeypatch.setattr(SoupContext, name, planted(name))

    def run(comm: Comm) -> None:
        try:
            run_case(comm, trained, case)
        except WorldError:
            ended.append(comm.rank)
            raise

    with pytest.raises(ZeroDivisionError, match="planted"):
        on_ranks(3, run)
    assert sorted(ended) == [other for other in range(3) if other != rank]


# Whole flows.

FLOWS = {
    "all methods": (),
    "aligned by weights": ("soup.align=weights", "soup.methods=['greedy', 'gis', 'pls']"),
    "aligned by activations": ("soup.align=activations", "soup.methods=['uniform', 'ls']"),
    "papers": ("soup.ls.optimiser=paper", "soup.pls.optimiser=paper", "soup.methods=['ls', 'pls']"),
}


def files_of(job: Job) -> dict[str, Any]:
    """What a run's files say of its soups, alignment and diagnosis, but what it cost."""
    run, found = RunDir.of(job), dict[str, Any]()
    for path in sorted(run.soups.glob("*.h5")):
        soup = soup_store.read(path)
        alignment = None if soup.alignment is None else alignment_store.sha256(soup.alignment)
        exact = (soup.ingredients, soup.left_out, soup.counts, soup.validation_accuracy, soup.test_accuracy)
        found[path.stem] = (*exact, alignment, soup.paired, soup.test_right.tobytes(), soup.mixture.groups)
        found[f"alpha of {path.stem}"] = soup.mixture.alpha.numpy()
    if run.alignment.exists():
        found["alignment"] = alignment_store.sha256(alignment_store.read(run.alignment).alignment)
    if run.diagnosis.exists():
        diagnosis = diagnosis_store.read(run.diagnosis)
        found["diagnosis"] = (diagnosis.best, diagnosis.ingredients, diagnosis.variants, diagnosis.left_out)
    return found


def assert_same_files(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(found[name], value, atol=1e-8, rtol=0.0, err_msg=name)
        else:
            assert found[name] == value, name


def stamps(job: Job) -> dict[Path, int]:
    run = RunDir.of(job)
    paths = [*run.soups.glob("*.h5"), run.alignment, run.diagnosis]
    return {path: path.stat().st_ino for path in paths if path.exists()}


def soup_on(size: int, job: Job, again: bool = False) -> None:
    """All ranks are told the same diagnosis."""
    told = on_ranks(size, lambda comm: soup_all(comm, job, again)) if size > 1 else [soup_all(SERIAL, job, again)]
    assert all(each == told[0] for each in told)


def shuffled(job: Job, folder: Path) -> Job:
    return runs.shuffle_units(runs.copy_run(job, folder))


@pytest.mark.parametrize(
    ("model", "flow"),
    [
        *(("sage", flow) for flow in FLOWS),
        ("gat", "all methods"),
        *(pytest.param("gat", flow, marks=pytest.mark.slow) for flow in FLOWS if flow != "all methods"),
    ],
)
def test_a_whole_souping_gives_the_same_files(
    flow: str, model: str, all_trained: dict[str, Job], tmp_path: Path
) -> None:
    """Made, there already, and made again."""
    made = {}
    for size in (1, 2, 3):
        job = runs.change_job(shuffled(all_trained[model], tmp_path / str(size)), *FLOWS[flow])
        soup_on(size, job)
        made[size] = files_of(job)
        before = stamps(job)
        soup_on(size, job)
        assert stamps(job) == before
        if size == 2:
            soup_on(size, job, again=True)
            assert all(before[path] != stamp for path, stamp in stamps(job).items())
            assert_same_files(files_of(job), made[size])
    assert {"diagnosis"} <= made[1].keys()
    assert_same_files(made[2], made[1])
    assert_same_files(made[3], made[1])


@pytest.mark.parametrize("divides", [True, False])
def test_so_it_does_with_an_ingredient_left_out_and_files_damaged(
    divides: bool, trained: Job, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not divides:
        request.getfixturevalue("torch_alone")
    made = {}
    for size in (1, 2):
        job = runs.copy_run(trained, tmp_path / str(size))
        kit.truncate(RunDir.of(job).ingredient(1))
        with pytest.raises(RunError, match=r"0001.h5 .*leave out"):
            soup_on(size, job)
        assert not RunDir.of(job).soups.exists()
        job = runs.change_job(job, "soup.unfit=leave out", "soup.methods=['greedy', 'ls', 'pls']", "soup.align=weights")
        soup_on(size, job)
        made[size] = files_of(job)
        before, damaged = stamps(job), (RunDir.of(job).soup("ls"), RunDir.of(job).alignment, RunDir.of(job).diagnosis)
        for path in damaged:
            kit.truncate(path)
        soup_on(size, job)
        assert {path for path, stamp in stamps(job).items() if before[path] != stamp} == set(damaged)
        assert_same_files(files_of(job), made[size])
    for found in made.values():
        found["diagnosis"] = found["diagnosis"][:-1]
        for name in ("greedy", "ls", "pls"):  # whose lines name the run's folder
            assert len(found[name][1]) == 1
            found[name] = (found[name][0], *found[name][2:])
    assert_same_files(made[2], made[1])
