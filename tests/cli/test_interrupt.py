"""Ctrl-C, and what nohup ignores: what each block does with it, and real processes at many moments."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from gnnsoup_hpc.errors import Interrupted
from gnnsoup_hpc.runtime import leases, signals
from gnnsoup_hpc.runtime.signals import CTRL_C, PreemptionHandler
from tests.faults import kit
from tests.faults.kit import JOB, MARK, Workdir, content
from tests.processes import GUARD, Gate, plant, start, wait_until, with_site
from tests.runtime.test_signals import LONG, LONG_TWO, SHORT_OF_IT, no_litter

ANSWER = "gnnsoup: stopping at the end of the epoch; Ctrl-C again stops at once"
FEW = ("--set", "train.ingredients=2", "--set", "train.epochs=2")
IGNORING = ("sh", "-c", 'trap "" INT HUP; exec "$@"', "sh")  # as nohup and a shell's background jobs have it

# Reads a module's source very slowly, after it has said so by a file.
SLOW_IMPORT = """\
import os, pathlib, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SLOW"]:
            pathlib.Path(os.environ["REACHED"]).touch()
            time.sleep(3600)

sys.meta_path.insert(0, Slow())
"""

# Makes stdin the terminal of a new session, and becomes the command.
TAKE_TERMINAL = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

# Cuts every graph apart from the command, and never ends.
SLOW_METIS = """\
import os, pathlib, sys, time

if any("gnnsoup_hpc.data.partition" in word for word in sys.orig_argv):
    pathlib.Path(os.environ["REACHED"]).write_text(str(os.getpid()))
    time.sleep(3600)
elif "gnnsoup_hpc" in sys.orig_argv:
    from gnnsoup_hpc.data import prepare
    prepare.ENTRIES_TO_CUT_APART = 0
"""
slow_param = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    """A job and its graph's source, nothing run yet."""
    return kit.make_workdir(tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Trainings that are given its variables are still there when a signal comes."""
    return Gate(tmp_path / "gate")


def customised(workdir: Workdir, code: str, **variables: str) -> dict[str, str]:
    """Variables that make a process run `code` first."""
    site = workdir.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(code)
    return with_site({"REACHED": str(workdir.folder / "reached")} | variables, site)


def ends_with_130(process: subprocess.Popen[str], *lines: str) -> None:
    """Assert that it ends with these lines on stderr, each the beginning of one."""
    out, err = process.communicate(timeout=GUARD)
    said = err.splitlines()
    assert process.returncode == 130, out + err
    assert [line[: len(begin)] for line, begin in zip(said, lines, strict=False)] == list(lines), err
    assert len(said) == len(lines), err


def heard_later(stop: PreemptionHandler, *numbers: signal.Signals) -> None:
    """Hear them in a block that looks itself, as training is."""
    with stop.heard(), stop.later():
        for number in numbers:
            signal.raise_signal(number)
        stop.looked = True  # type: ignore[attr-defined]


def test_it_ends_what_knows_of_none() -> None:
    stop = PreemptionHandler()
    with pytest.raises(Interrupted, match=f"^stopped by Ctrl-C: {SHORT_OF_IT}$"), stop.heard():
        signal.raise_signal(CTRL_C)
    assert signal.getsignal(CTRL_C) is signal.default_int_handler


@pytest.mark.parametrize("says", [True, False])
def test_a_block_that_looks_itself_goes_on_and_the_first_is_answered(
    says: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    stop = PreemptionHandler(says)
    with pytest.raises(Interrupted):
        heard_later(stop, CTRL_C)
    assert hasattr(stop, "looked")
    assert capfd.readouterr().err == (f"{ANSWER}\n" if says else "")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_ends_at_once(monkeypatch: pytest.MonkeyPatch, first: signal.Signals) -> None:
    monkeypatch.setattr(signals, "SAME_SECONDS", -1.0)
    stop = PreemptionHandler()
    with pytest.raises(KeyboardInterrupt):
        heard_later(stop, first, CTRL_C)
    assert not hasattr(stop, "looked")


def test_one_that_two_pass_on_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal's Ctrl-C, which mpirun sends on too."""
    monkeypatch.setattr(signals, "SAME_SECONDS", 1e9)
    stop = PreemptionHandler()
    with pytest.raises(Interrupted):
        heard_later(stop, CTRL_C, CTRL_C)
    assert hasattr(stop, "looked")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    stop = PreemptionHandler()
    with signals.ignore_while_loading(), stop.heard():
        signal.raise_signal(number)
        assert not stop.asked
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize(
    "module",
    ["gnnsoup_hpc.cli.commands", "torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("numba", "h5py"))],
)
def test_while_modules_are_loaded(workdir: Workdir, module: str) -> None:
    with start(workdir.folder, "train", **customised(workdir, SLOW_IMPORT, SLOW=module)) as process:
        wait_until((workdir.folder / "reached").exists, process)
        process.send_signal(CTRL_C)
        ends_with_130(process, f"{MARK}interrupted before it began")


@pytest.mark.parametrize("room", ["train", "soup"])
def test_the_modules_of_rooms_hear_it_as_soon(workdir: Workdir, room: str) -> None:
    environment = os.environ | customised(workdir, SLOW_IMPORT, SLOW="torch")
    process = subprocess.Popen(
        [sys.executable, "-m", f"gnnsoup_hpc.{room}", JOB],
        cwd=workdir.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_until((workdir.folder / "reached").exists, process)
        process.send_signal(CTRL_C)
        ends_with_130(process, f"{MARK}interrupted before it began")


def test_sigterm_while_modules_are_loaded_has_its_usual_effect(workdir: Workdir) -> None:
    with start(workdir.folder, "train", **customised(workdir, SLOW_IMPORT, SLOW="torch")) as process:
        wait_until((workdir.folder / "reached").exists, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=GUARD)
    assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")


def test_training_goes_on_where_it_stopped(
    workdir: Workdir, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    quiet = kit.make_workdir(tmp_path_factory.mktemp("quiet"))
    kit.succeeds(quiet.gnnsoup_here("train", *LONG))
    with start(workdir.folder, "train", *LONG, **gate.variables(first=0)) as process:
        wait_until(gate.held, process)
        process.send_signal(CTRL_C)
        ends_with_130(process, ANSWER, f"{MARK}stopped by Ctrl-C: ingredient 0000 is kept after epoch ")
    no_litter(workdir)
    assert "goes on after epoch" in kit.succeeds(workdir.gnnsoup_here("train", *LONG))
    assert content(workdir.ingredient(0)) == content(quiet.ingredient(0))


def test_two_in_a_row_end_at_once_and_give_the_lease_back(workdir: Workdir) -> None:
    variables = plant(workdir.folder, "gnnsoup_hpc.train.loop:Training.epoch")  # an epoch that never ends
    with start(workdir.folder, "train", *LONG, **variables) as process:
        wait_until((workdir.folder / "reached").exists, process)
        process.send_signal(CTRL_C)
        assert process.stderr
        assert process.stderr.readline() == f"{ANSWER}\n"
        time.sleep(2 * signals.SAME_SECONDS)
        process.send_signal(CTRL_C)
        ends_with_130(process, f"{MARK}interrupted at once; the same command goes on from the last checkpoint")
    no_litter(workdir)
    kit.succeeds(workdir.gnnsoup_here("train", *FEW[2:], "--set", "train.ingredients=1"))


@pytest.mark.parametrize(
    ("command", "place"),
    [
        pytest.param("prepare", "gnnsoup_hpc.data.sources:load", id="while the source is read"),
        pytest.param("run", "gnnsoup_hpc.soup.methods.baselines:Uniform.run", id="while a method is at work"),
        slow_param("run", "gnnsoup_hpc.soup.alignment:align_ingredients", id="before the first method"),
        slow_param("run", "gnnsoup_hpc.analysis.report.build:write", id="while the report is written"),
        slow_param("run", "gnnsoup_hpc.analysis.report.brief:show_brief", id="while the report is told"),
        pytest.param("report", "gnnsoup_hpc.analysis.report.contents:read_contents", id="while a run is read"),
        pytest.param("status", "gnnsoup_hpc.analysis.status.read:read_status", id="status"),
    ],
)
def test_what_saves_nothing_is_ended_by_the_first(workdir: Workdir, command: str, place: str) -> None:
    if command == "report":
        kit.succeeds(workdir.gnnsoup_here("run", *FEW))
    words = [command] if command in ("prepare", "report", "status") else [command, *FEW]
    with start(workdir.folder, *words, **plant(workdir.folder, place)) as process:
        wait_until((workdir.folder / "reached").exists, process)
        process.send_signal(CTRL_C)
        ends_with_130(process, f"{MARK}stopped by Ctrl-C: {SHORT_OF_IT}")
    no_litter(workdir)


def test_while_metis_works_in_its_own_process(workdir: Workdir) -> None:
    """A terminal sends it to all processes; METIS's must say nothing and be gone."""
    with start(workdir.folder, "prepare", **customised(workdir, SLOW_METIS)) as process:
        reached = workdir.folder / "reached"
        wait_until(lambda: reached.exists() and reached.read_text() != "", process)
        os.killpg(process.pid, CTRL_C)
        ends_with_130(process, f"{MARK}stopped by Ctrl-C: {SHORT_OF_IT}")
    assert not Path(f"/proc/{reached.read_text()}").exists()
    no_litter(workdir)


def test_while_it_waits_for_anothers_lease(workdir: Workdir) -> None:
    kit.succeeds(workdir.gnnsoup_here("prepare"))
    held = workdir.root / "leases" / "ingredient-0000.lease"
    with leases.hold(held), start(workdir.folder, "train", "--set", "train.ingredients=1") as process:
        assert process.stdout
        while "memory limit" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(CTRL_C)
        out, err = process.communicate(timeout=GUARD)
        assert held.exists()
    assert process.returncode == 130, out + err
    assert err.removeprefix(f"{ANSWER}\n") == f"{MARK}stopped by Ctrl-C: {SHORT_OF_IT}\n"


def test_nohup_and_the_background_keep_it_going(workdir: Workdir, gate: Gate) -> None:
    with start(workdir.folder, "train", *LONG, before=IGNORING, **gate.variables(first=0)) as process:
        wait_until(gate.held, process)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the first that is heard is told
            process.send_signal(number)
        out, err = process.communicate(timeout=GUARD)
    assert process.returncode == 75, out + err
    assert err.startswith(f"{MARK}stopped by SIGTERM: ingredient 0000 is kept after epoch ")


def test_a_terminal_that_closes_leaves_a_checkpoint(workdir: Workdir, gate: Gate) -> None:
    """The kernel sends SIGHUP, and no word can be written any more."""
    mine, theirs = os.openpty()
    words = [sys.executable, "-c", TAKE_TERMINAL, sys.executable, "-m", "gnnsoup_hpc", "train", JOB, *LONG]
    ours = {"cwd": workdir.folder, "env": os.environ | gate.variables(first=0)}
    with subprocess.Popen(words, **ours, stdin=theirs, stdout=theirs, stderr=theirs, text=True) as process:
        os.close(theirs)
        reader = threading.Thread(target=drain, args=(mine, closing := threading.Event()))
        reader.start()
        wait_until(gate.held, process)
        closing.set()
        reader.join()
        assert process.wait(GUARD) == 75
    assert (workdir.root / "checkpoints" / "ingredient-0000.h5").exists()
    no_litter(workdir)


def drain(terminal: int, closing: threading.Event) -> None:
    """Read what is written to a terminal, until it is to be closed."""
    while not closing.is_set():
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 1 << 16)
    os.close(terminal)


@pytest.mark.mpi
def test_all_ranks_keep_what_they_have(workdir: Workdir, gate: Gate) -> None:
    with start(workdir.folder, "run", *LONG_TWO, ranks=2, **gate.variables(first=0)) as process:
        wait_until(lambda: gate.times() == 2, process)
        os.killpg(process.pid, CTRL_C)  # mpirun passes it on, to ranks that may have it already
        out, err = process.communicate(timeout=GUARD)
    assert process.returncode == 130, out + err
    lines = [line for line in err.splitlines() if MARK in line]
    assert sorted(line[:10] for line in lines) == ["[rank 0/2]", "[rank 1/2]"], err
    assert all(" is kept after epoch " in line for line in lines)
    assert "Traceback" not in err
    assert err.count(ANSWER) <= 1
    no_litter(workdir)
