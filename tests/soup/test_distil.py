"""distil: its teacher is the ensemble, its steps are those of plain PyG, and what is there is gone on with."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.errors import DivergedError, Preempted, RunError
from gnnsoup_hpc.evaluation import tasks
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io import teacher as teacher_store
from gnnsoup_hpc.io.ingredient import Checkpoint
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.runtime.signals import PreemptionHandler
from gnnsoup_hpc.soup import distillation
from gnnsoup_hpc.soup.distillation import open_teacher
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.selection import select_ingredients
from gnnsoup_hpc.soup.start import open_mixtures
from gnnsoup_hpc.train.checkpointing import SharedCheckpoints
from gnnsoup_hpc.types import Role, State
from tests import runs
from tests.comms import WorldError, run_ranks
from tests.ranks.souping import soup_all

THIRDS = torch.full((1, 3), 1 / 3, dtype=torch.float64)


@pytest.fixture
def job(trained: Job, tmp_path: Path) -> Job:
    job = runs.copy_run(trained, tmp_path)
    RunDir.of(job).teacher(1.0).unlink(missing_ok=True)
    return job


def read_teacher(mixtures: Mixtures, temperature: float = 1.0) -> np.ndarray:
    with open_teacher(mixtures, temperature) as teacher:
        return teacher.read(0, mixtures.graph.nodes)


def all_logits(mixtures: Mixtures) -> list[torch.Tensor]:
    """Of each ingredient on all nodes, by the layers of the torch engine."""
    graph = loader.load_whole(mixtures.graph, Role.VALIDATION).graph
    states = (mixtures.ingredient(index) for index in mixtures.ids)
    return [mixtures.model.forward(state, graph) for state in states]


def distil(mixtures: Mixtures, **options: object) -> tuple[State, list[float]]:
    settings = {"epochs": 3, "union": 8, "dropout": 0.0, "schedule": "constant"} | options
    job = Job(name="x", soup={"distil": settings})
    found = make_methods(job.soup)["distil"].run(runs.make_context(mixtures))
    assert found.state is not None
    return found.state, [step.loss for step in found.history]


# ---- the teacher


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_teacher_is_the_mean_of_all_ingredients(job: Job, temperature: float) -> None:
    with runs.open_mixtures(job) as mixtures, torch.no_grad():
        found = read_teacher(mixtures, temperature)
        wanted = torch.stack([(logits / temperature).softmax(1) for logits in all_logits(mixtures)]).mean(0)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-3 / 4)
    assert not RunDir.of(job).outputs("", 1.0).parent.exists()


def test_the_teacher_is_computed_layer_by_layer_where_memory_is_short(job: Job) -> None:
    with runs.open_mixtures(job) as mixtures:
        wanted = read_teacher(mixtures)
    RunDir.of(job).teacher(1.0).unlink()
    with runs.open_mixtures(job, memory=1) as mixtures:
        assert not mixtures.evaluator.fits
        found = read_teacher(mixtures)
    np.testing.assert_allclose(found, wanted, atol=2**-11)


def test_what_is_there_of_the_teacher_is_not_made_again(job: Job) -> None:
    """A command that was killed leaves the outputs of some ingredients; one that is damaged is made again."""
    run = RunDir.of(job)
    with runs.open_mixtures(job) as mixtures:
        wanted = read_teacher(mixtures)
        read_teacher(mixtures)  # is there already
        kept = run.teacher(1.0).stat().st_mtime_ns
        read_teacher(mixtures)
        assert run.teacher(1.0).stat().st_mtime_ns == kept
        run.teacher(1.0).write_bytes(run.teacher(1.0).read_bytes()[:-100] + bytes(100))
        assert np.array_equal(read_teacher(mixtures), wanted)


def test_outputs_that_a_killed_command_left_are_used(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = teacher_store.write

    def stop_at_the_second(path: Path, *what: object) -> None:
        if path.stem == "0001" and not written.count("0001"):
            written.append("0001")
            raise KeyboardInterrupt
        written.append(path.stem)
        write(path, *what)

    monkeypatch.setattr(teacher_store, "write", stop_at_the_second)
    with runs.open_mixtures(job) as mixtures:
        with pytest.raises(KeyboardInterrupt):
            read_teacher(mixtures)
        read_teacher(mixtures)
    assert written == ["0000", "0001", "0001", "0002", "teacher"]


def test_another_ingredient_or_temperature_is_another_teacher(job: Job) -> None:
    with runs.open_mixtures(job) as mixtures:
        found = [read_teacher(mixtures), read_teacher(mixtures, 2.0)]
    with runs.open_mixtures(job, ids=[0, 2]) as mixtures, torch.no_grad():
        found.append(read_teacher(mixtures))
        states = [ingredient_store.read(RunDir.of(job).ingredient(index)).state for index in (0, 2)]
        graph = loader.load_whole(mixtures.graph, Role.VALIDATION).graph
        two = torch.stack([mixtures.model.forward(state, graph).softmax(1) for state in states]).mean(0)
    np.testing.assert_allclose(found[2], two.numpy(), atol=2e-3 / 4)
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[0], found[2])


# ---- steps


def test_steps_are_those_of_a_plain_loop(job: Job) -> None:
    """On the whole graph without dropout, by autograd, Adam and torch's own divergence."""
    with runs.open_mixtures(job) as mixtures:
        state, losses = distil(mixtures, learning_rate=0.01)
        teacher = torch.from_numpy(read_teacher(mixtures))
        graph = loader.load_whole(mixtures.graph, Role.VALIDATION).graph
        start = mixtures.mix(THIRDS, "model")
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
        adam = torch.optim.Adam(leaves.values(), lr=0.01)
        best, wanted, found = mixtures.evaluator.metrics([start], [Role.VALIDATION])[0], start, []
        for _ in range(3):
            adam.zero_grad()
            shares = teacher / teacher.sum(1, keepdim=True)
            loss = functional.kl_div(
                mixtures.model.forward(leaves, graph).log_softmax(1), shares, reduction="batchmean"
            )
            loss.backward()
            adam.step()
            found.append(float(loss.detach()))
            now = {name: tensor.detach().clone() for name, tensor in leaves.items()}
            reached = mixtures.evaluator.metrics([now], [Role.VALIDATION])[0]
            if reached > best:
                best, wanted = reached, now
    assert losses == pytest.approx(found, rel=1e-4)
    for name, tensor in wanted.items():
        torch.testing.assert_close(state[name], tensor, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_labels_have_their_share_of_the_loss(job: Job, share: float) -> None:
    with runs.open_mixtures(job) as mixtures:
        (plain, *_), (mixed, *_) = (distil(mixtures, label_share=part)[1] for part in (0.0, share))
        view = loader.load_whole(mixtures.graph, Role.TRAIN)
        logits = mixtures.model.forward(mixtures.mix(THIRDS, "model"), view.graph)[view.seeds]
    own = float(functional.cross_entropy(logits, view.targets))
    assert mixed == pytest.approx((1 - share) * plain + share * own, rel=1e-4)


def test_it_never_falls_below_its_start_on_validation(job: Job) -> None:
    with runs.open_mixtures(job) as mixtures:
        state, _ = distil(mixtures, learning_rate=10.0)
        uniform, found = mixtures.metrics([Candidate(THIRDS), Candidate(THIRDS, of="distilled", state=state)])
    assert found >= uniform


def test_from_scratch_it_learns_what_the_ensemble_knows(job: Job) -> None:
    with runs.open_mixtures(job) as mixtures:
        state, losses = distil(mixtures, start="scratch", epochs=60, union=3, learning_rate=0.02, dropout=0.3)
        found, ensemble = mixtures.metrics(
            [Candidate(THIRDS, of="distilled", state=state), Candidate(THIRDS, of="predictions")]
        )
    assert losses[-1] < 0.2 * losses[0]
    assert found > ensemble - 0.05


def test_what_diverges_is_one_clear_line(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    init = Architecture.init_state
    monkeypatch.setattr(Architecture, "init_state", lambda *k: {n: t * torch.inf for n, t in init(*k).items()})
    with (
        runs.open_mixtures(job) as mixtures,
        pytest.raises(DivergedError, match=r"distil diverged in epoch 1 .*: lower soup\.distil\.learning_rate"),
    ):
        distil(mixtures, start="scratch")


def test_outputs_that_are_not_finite_are_nothing_to_imitate(job: Job) -> None:
    run = RunDir.of(job)
    with runs.open_mixtures(job) as mixtures:
        origin = ingredient_store.Origin.of(job, mixtures.model, mixtures.graph, "0" * 64, 1)
    made = ingredient_store.read(run.ingredient(1))
    huge = replace(made, state={name: 1e25 * tensor for name, tensor in made.state.items()})
    ingredient_store.write(run.ingredient(1), huge, origin, job)
    with (
        runs.open_mixtures(job) as mixtures,
        pytest.raises(RunError, match=r"ingredient 0001 .* not finite.* soup\.leave_out = \[1\]"),
    ):
        distil(mixtures, start="scratch")
    assert not run.teacher(1.0).exists()


# ---- where it begins


BEGINS_AT_LS = ("soup.methods=['ls', 'distil']", "soup.distil.start=ls", "soup.diagnose=false")


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_begins_at_another_methods_soup(job: Job, ranks: int) -> None:
    """Steps of that length lead nowhere, so it stays where it began."""
    asked = runs.change_job(job, *BEGINS_AT_LS, "soup.distil.epochs=1", "soup.distil.learning_rate=1000")
    run_ranks(ranks, lambda comm: soup_all(comm, asked))
    begun, found = (soup_store.read(RunDir.of(job).soup(name)) for name in ("ls", "distil"))
    assert begun.state is not None
    assert found.state is not None
    assert found.state.keys() == begun.state.keys()
    assert all(torch.equal(tensor, begun.state[name]) for name, tensor in found.state.items())
    assert found.validation_accuracy == begun.validation_accuracy
    assert found.mixture.alpha.tolist() == THIRDS.tolist()


def test_a_changed_start_is_another_distilled_model(job: Job) -> None:
    """And one that is there, of the same ingredients, serves a job that does not make it."""
    made = RunDir.of(job).soup("distil")

    def distil_once(*overrides: str) -> tuple[int, str]:
        runs.soup_run(runs.change_job(job, *BEGINS_AT_LS, "soup.distil.epochs=1", *overrides))
        return made.stat().st_ino, soup_store.read_recipe(made).identity

    first = distil_once()
    assert distil_once() == first
    assert distil_once("soup.methods=['distil']") == first
    changed = distil_once("soup.ls.epochs=2")
    assert changed[1] != first[1]
    assert distil_once("soup.methods=['distil']") == changed
    assert distil_once("soup.methods=['distil']", "soup.distil.start=uniform")[1] not in (first[1], changed[1])


def test_a_start_that_the_run_has_not_is_refused_before_anything_is_made(job: Job) -> None:
    run, told = RunDir.of(job), r"soup\.distil\.start = 'ls' begins there; list 'ls' before 'distil' in soup\.methods"
    missing = runs.change_job(job, *BEGINS_AT_LS, "soup.methods=['gis', 'distil']")
    with pytest.raises(RunError, match=rf"soups/ls\.h5 .*{told}$"):
        runs.soup_run(missing)
    with pytest.raises(RunError, match=told):
        runs.soup_run(runs.change_job(missing, "soup.distil.start=uniform", "sweep.distil.start=['ls']"))
    assert not run.soups.exists()
    runs.soup_run(runs.change_job(job, "soup.methods=['ls']", "soup.diagnose=false"))
    with pytest.raises(RunError, match=rf"soups/ls\.h5 is of other ingredients .*{told}$"):
        runs.soup_run(runs.change_job(missing, "soup.leave_out=[1]"))
    assert [path.name for path in run.soups.iterdir()] == ["ls.h5"]


# ---- checkpoints


class Stopping(SharedCheckpoints):
    """Hears a signal after so many epochs."""

    after = 2

    def check(self, epoch: int, last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        if epoch == self.after:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            while not self.log.stop.asked:  # the main thread hears it
                time.sleep(0.001)
        super().check(epoch, last, checkpoint)


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_goes_on_after_a_signal_to_the_same_bits(job: Job, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    run = RunDir.of(job)
    job = runs.change_job(job, "soup.methods=['distil']", "soup.diagnose=false")

    def soup(comm: Comm, stop: PreemptionHandler) -> None:
        here = RankInfo(comm.rank, comm.size, comm.rank, comm.size, "here")
        with open_mixtures(job, here, comm, runs.CPU, runs.QUIET, select_ingredients) as (found, selection, mixtures):
            SoupRunner(found, selection, mixtures, Log(quiet=True, stop=stop)).run_all(True)

    run_ranks(ranks, lambda comm: soup(comm, PreemptionHandler()))
    wanted = soup_store.read(run.soup("distil"))
    assert not run.checkpoint("distil").exists()
    with monkeypatch.context() as patch, (stop := PreemptionHandler()).heard():
        patch.setattr(distillation, "SharedCheckpoints", Stopping)
        with pytest.raises((Preempted, WorldError), match=r"distil is kept after epoch 2 in .*/distil\.h5"):
            run_ranks(ranks, lambda comm: soup(comm, stop)) if ranks > 1 else soup(SERIAL, stop)
    assert run.checkpoint("distil").exists()
    run_ranks(ranks, lambda comm: soup(comm, PreemptionHandler()))
    found = soup_store.read(run.soup("distil"))
    assert [step.loss for step in found.mixture.history] == [step.loss for step in wanted.mixture.history]
    assert found.state is not None
    assert wanted.state is not None
    assert all(torch.equal(tensor, wanted.state[name]) for name, tensor in found.state.items())
    assert not run.checkpoint("distil").exists()


# ---- losses of tasks


def make_tasks() -> Iterator[tuple[tasks.Task, int]]:
    yield tasks.Multiclass(3), 3
    yield tasks.Binary(1), 1
    yield tasks.Multilabel(4), 4
    yield tasks.Regression(2, name="r2", mean=(1.0, 2.0), spread=(2.0, 0.5)), 2


@pytest.mark.parametrize(("task", "width"), list(make_tasks()), ids=lambda found: type(found).__name__)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_imitation_is_nearest_at_the_teacher_itself(task: tasks.Task, width: int, temperature: float) -> None:
    if isinstance(task, tasks.Regression):
        temperature = 1.0
    draw = torch.Generator().manual_seed(0)
    own, other = (torch.randn(50, width, generator=draw, dtype=torch.float64) for _ in range(2))
    outputs = task.average(own / temperature)
    assert float(task.imitation_loss(own, outputs, temperature)) == pytest.approx(0.0, abs=1e-12)
    leaf = other.requires_grad_()
    loss = task.imitation_loss(leaf, outputs, temperature)
    assert float(loss.detach()) > 0.01
    assert torch.autograd.gradcheck(lambda z: task.imitation_loss(z, outputs, temperature), leaf)
    half = task.average(replace_shares(own))
    assert bool(torch.isfinite(task.imitation_loss(leaf, half, temperature)))


def replace_shares(logits: torch.Tensor) -> torch.Tensor:
    """So sure that shares are 0 and 1."""
    return 1e4 * logits
