"""Signals: in this process what each block does with one; in real processes, real signals at several moments."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gnnsoup_hpc.cli import common
from gnnsoup_hpc.errors import JobError, Preempted
from gnnsoup_hpc.runtime import leases
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.signals import HEEDED, PreemptionHandler
from tests.faults import kit
from tests.faults.kit import MARK, Workdir, content
from tests.processes import GUARD, Gate, plant, shorten, start, wait_until

LONG = ("--set", "train.epochs=30", "--set", "train.ingredients=1")
LONG_TWO = ("--set", "train.epochs=30", "--set", "train.ingredients=2")
SHORT_OF_IT = "nothing finished is lost; the same command goes on from here"


@pytest.fixture(params=HEEDED, ids=lambda number: number.name)
def number(request: pytest.FixtureRequest) -> signal.Signals:
    return request.param


def test_a_signal_ends_what_knows_of_none(number: signal.Signals) -> None:
    stop, before = PreemptionHandler(), [signal.getsignal(each) for each in HEEDED]
    with pytest.raises(Preempted, match=f"stopped by {number.name}: {SHORT_OF_IT}"), stop.heard():
        signal.raise_signal(number)
    assert [signal.getsignal(each) for each in HEEDED] == before


def test_a_block_that_looks_itself_is_left_alone(number: signal.Signals) -> None:
    stop, done = PreemptionHandler(), []

    def block() -> None:
        with stop.later():
            with stop.later():
                signal.raise_signal(number)
                signal.raise_signal(signal.SIGTERM)
                stop.check()
                Log(quiet=True, stop=stop).say("nothing")
                done.append(stop.asked)
            done.append("the outer one too")

    with pytest.raises(Preempted), stop.heard():
        block()
    assert done == [True, "the outer one too"]


def test_the_way_out_is_not_disturbed(number: signal.Signals) -> None:
    stop, cleaned = PreemptionHandler(), []

    def block() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            cleaned.append(1)

    with pytest.raises(Preempted), stop.heard():
        block()
    assert cleaned


def test_a_file_object_that_hdf5_writes_to_is_not_left_by_an_exception(tmp_path: Path) -> None:
    stop = PreemptionHandler()

    class Ours(io.FileIO):
        def write(self, content: bytes) -> int:
            signal.raise_signal(signal.SIGUSR1)
            return len(content)

    with stop.heard(), Ours(tmp_path / "file", "w") as file:
        assert file.write(b"whole") == 5
        assert stop.asked
        for heeds in (lambda: Log(quiet=True, stop=stop).say("next"), Log(quiet=True, stop=stop).bar(2, "bar").advance):
            with pytest.raises(Preempted):
                heeds()


@pytest.mark.usefixtures("own_excepthook")
@pytest.mark.parametrize(("error", "code"), [(None, 75), (JobError("no"), 2)])
def test_the_exit_code_is_75_unless_something_else_is_wrong(
    error: Exception | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(here: RankInfo) -> None:
        with here.stop.later():
            signal.raise_signal(signal.SIGTERM)
            if error:
                raise error

    assert common.execute(command) == code
    assert capsys.readouterr().err == f"{MARK}{error or f'stopped by SIGTERM: {SHORT_OF_IT}'}\n"


@pytest.mark.usefixtures("own_excepthook")
def test_what_is_over_is_over() -> None:
    """Work that was finished before the signal was looked at is finished."""
    stops: list[PreemptionHandler] = []
    assert common.execute(lambda here: stops.append(here.stop)) == 0
    with stops[0].heard():
        signal.raise_signal(signal.SIGUSR2)


def ends_with_75(process: subprocess.Popen[str], *names: str) -> str:
    """The one line that it ends with."""
    out, err = process.communicate(timeout=GUARD)
    outcome = subprocess.CompletedProcess([], process.returncode, out, err)
    line = kit.fails(outcome, "stopped by SIG", "the same command goes on from here", *names)
    assert process.returncode == 75
    return line


def no_litter(workdir: Workdir) -> None:
    """No lease, and no private file of a writer."""
    left = [path for path in (workdir.folder / "runs").rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix == ".lease" or path.name.startswith(".")]


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    """A job and its graph's source, nothing run yet."""
    return kit.make_workdir(tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Trainings that are given its variables are still there when a signal comes."""
    return Gate(tmp_path / "gate")


@pytest.mark.parametrize(
    "numbers",
    [HEEDED[:2], pytest.param(HEEDED[2:], marks=pytest.mark.slow)],
    ids=lambda numbers: " ".join(number.name for number in numbers),
)
def test_training_goes_on_where_each_signal_stopped_it(
    numbers: tuple[signal.Signals, ...], workdir: Workdir, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    quiet = kit.make_workdir(tmp_path_factory.mktemp("quiet"))
    kit.succeeds(quiet.gnnsoup_here("train", *LONG))
    reached = 0
    for turn, number in enumerate(numbers):
        with start(workdir.folder, "train", *LONG, **gate.variables(first=0)) as process:
            wait_until(lambda: gate.times() > turn, process)  # noqa: B023 - called before it changes
            for _ in range(3):
                process.send_signal(number)
            line = ends_with_75(process, number.name)
        found = re.search(r"ingredient 0000 is kept after epoch (\d+) in (\S+);", line)
        assert found, line
        assert (workdir.folder / found[2]).exists()
        assert int(found[1]) > reached
        reached = int(found[1])
        no_litter(workdir)
    said = kit.succeeds(workdir.gnnsoup_here("train", *LONG))
    assert f"goes on after epoch {found[1]}, from {found[2]}" in said
    assert content(workdir.ingredient(0)) == content(quiet.ingredient(0))
    assert list((workdir.root / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "where"),
    [
        pytest.param("prepare", "gnnsoup_hpc.data.sources:load", id="reading"),
        pytest.param("train", "gnnsoup_hpc.data.prepare:partition_graph", id="cutting"),
        pytest.param("run", "gnnsoup_hpc.soup.methods.baselines:Uniform.run", id="souping"),
    ],
)
def test_a_command_ends_wherever_it_is(workdir: Workdir, command: str, where: str) -> None:
    few = ("--set", "train.ingredients=2", "--set", "train.epochs=2")
    with start(workdir.folder, command, *few, **plant(workdir.folder, where)) as process:
        wait_until((workdir.folder / "reached").exists, process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        ends_with_75(process, SHORT_OF_IT)
    no_litter(workdir)
    kit.succeeds(workdir.gnnsoup_here(command, *few))


def test_a_signal_while_hdf5_writes_is_heeded_after_it(workdir: Workdir) -> None:
    variables = plant(workdir.folder, "gnnsoup_hpc.io.files:ReservedFile.write", seconds=0.5)
    with start(workdir.folder, "prepare", **variables) as process:
        wait_until((workdir.folder / "reached").exists, process)
        process.send_signal(signal.SIGUSR1)
        ends_with_75(process, "SIGUSR1", SHORT_OF_IT)
    no_litter(workdir)
    kit.succeeds(workdir.gnnsoup_here("prepare"))


def test_whoever_waits_for_anothers_lease_ends_and_leaves_it(workdir: Workdir) -> None:
    kit.succeeds(workdir.gnnsoup_here("prepare"))
    held = [workdir.root / "leases" / f"ingredient-{index:04d}.lease" for index in range(3)]
    with leases.hold(held[0]), leases.hold(held[1]), leases.hold(held[2]):
        texts = [path.read_text() for path in held]
        with start(workdir.folder, "train") as process:
            assert process.stdout
            while "memory limit" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGUSR2)
            ends_with_75(process, "SIGUSR2", SHORT_OF_IT)
        assert [path.read_text() for path in held] == texts


@pytest.mark.mpi
def test_all_ranks_of_a_run_keep_what_they_have(workdir: Workdir, gate: Gate) -> None:
    with start(workdir.folder, "run", *LONG_TWO, ranks=2, **gate.variables(first=0)) as process:
        wait_until(lambda: gate.times() == 2, process)
        process.send_signal(signal.SIGUSR1)  # mpirun passes it on
        out, err = process.communicate(timeout=GUARD)
    assert process.returncode == 75, out + err
    lines = [line for line in err.splitlines() if MARK in line]
    assert sorted(line[:10] for line in lines) == ["[rank 0/2]", "[rank 1/2]"], err
    assert all(" is kept after epoch " in line for line in lines)
    no_litter(workdir)


@pytest.mark.mpi
def test_one_ranks_stop_while_souping_ends_all(workdir: Workdir) -> None:
    few = ("--set", "train.ingredients=2", "--set", "train.epochs=2")
    kit.succeeds(workdir.gnnsoup_here("train", *few))
    variables = plant(workdir.folder, "gnnsoup_hpc.soup.methods.baselines:Uniform.run")  # on rank 0; the other waits
    variables |= shorten("gnnsoup_hpc.cli.common:PREEMPTED_SECONDS", 3.0)
    with start(workdir.folder, "soup", *few, ranks=2, **variables) as process:
        wait_until((workdir.folder / "reached").exists, process)
        own = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = [pid for child in own for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split()]
        begun = time.monotonic()
        os.kill(int(ranks[0]), signal.SIGTERM)
        out, err = process.communicate(timeout=GUARD)
    assert process.returncode == 75, out + err
    assert len([line for line in err.splitlines() if MARK in line]) == 1
    assert time.monotonic() - begun >= 3.0  # for the other, which nobody told
