"""Where words cannot be written, nothing else is lost: a stdout that is full, closed or of another encoding."""

from __future__ import annotations

import errno
import io
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.config import PartitionJob
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.data.partition import cut_with_metis
from gnnsoup_hpc.errors import JobError, MissingJobError
from gnnsoup_hpc.runtime.terminal import Channel, Terminal, terminal
from tests.faults import kit
from tests.faults.kit import JOB, MARK, Workdir
from tests.tiny import mpirun

FEW = ("--set", "train.ingredients=2", "--set", "train.epochs=2", "--set", "soup.methods=['best', 'uniform']")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """A finished run of two methods; not to be changed."""
    workdir = kit.make_workdir(tmp_path_factory.mktemp("finished"))
    kit.succeeds(workdir.gnnsoup_here("run", *FEW))
    return workdir


@pytest.fixture
def workdir(original: Workdir, tmp_path: Path) -> Workdir:
    """A copy of it."""
    return kit.copy_workdir(original, tmp_path)


def shell(
    folder: Path, *words: str, to: str = "", before: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """`BEFORE gnnsoup WORDS TO` by a shell."""
    line = f"{before} {shlex.join([sys.executable, '-m', 'gnnsoup_hpc', *words])} {to}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"} | variables
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def whole(path: Path) -> bool:
    """Whether a report is there and complete."""
    with h5py.File(path, "r") as file:
        return bool(file.attrs["complete"]) and "methods" in file


def test_an_ascii_terminal_gets_the_report_and_so_does_the_disk(tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path)
    outcome = shell(workdir.folder, "run", JOB, *FEW, **ASCII)
    kit.succeeds(outcome)
    assert outcome.stdout.isascii()
    assert "report.h5" in outcome.stdout
    assert whole(workdir.report)


def test_letters_that_an_encoding_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="ascii", errors="strict"))
    with terminal() as here:
        print("café \udcff")
        assert here.end(0) == 0
    assert kept.getvalue() == b"caf\\xe9 \\udcff\n"


STDOUTS = {
    "full": ("> /dev/full", "No space left on device"),
    "closed": (">&-", "it is closed"),
    "closed, stdin too": ("</dev/null >&- <&-", "it is closed"),
}


@pytest.mark.parametrize(
    ("command", "to", "why"),
    [  # each command with a stdout that is full; each stdout where much is loaded before the first word, and nothing
        pytest.param(command, *STDOUTS[name], id=f"{command}-{name}")
        for command in ["run", "report", "status", "job", "--version", "--help"]
        for name in (STDOUTS if command in ("report", "--version") else ["full"])
    ],
)
def test_what_stdout_does_not_take_is_one_line_and_nothing_else_is_lost(
    workdir: Workdir, command: str, to: str, why: str
) -> None:
    if command in ("run", "report"):
        workdir.report.unlink()
    words = {"run": [JOB, *FEW], "report": ["runs/tiny"], "status": ["runs/tiny"], "job": [JOB]}.get(command, [])
    outcome = shell(workdir.folder, command, *words, to=to)
    kit.fails(outcome, f"stdout cannot be written: {why}")
    assert outcome.returncode == 1
    assert whole(workdir.report)


def test_a_whole_run_survives_both_being_closed(tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path)
    outcome = shell(workdir.folder, "run", JOB, *FEW, to=">&- 2>&-")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (1, "", "")
    assert whole(workdir.report)


@pytest.mark.parametrize("to", ["2>&-", pytest.param("2> /dev/full", marks=pytest.mark.slow)])
def test_a_closed_or_full_stderr_is_no_error(workdir: Workdir, to: str) -> None:
    workdir.report.unlink()
    outcome = shell(workdir.folder, "report", "runs/tiny", to=to)
    assert outcome.returncode == 0, outcome.stderr
    assert "uniform" in outcome.stdout
    assert whole(workdir.report)
    assert shell(workdir.folder, "report", "nowhere", to=to).returncode == 1


def test_who_has_read_enough_ends_nothing(workdir: Workdir) -> None:
    workdir.report.unlink()
    outcome = shell(workdir.folder, "report", "runs/tiny", "runs/tiny", to="| head -c 1; exit ${PIPESTATUS[0]}")
    assert outcome.returncode in (0, 141)  # as whoever reads is quick to go
    assert outcome.stderr == ""
    assert whole(workdir.report)


@pytest.mark.mpi
def test_ranks_whose_stdout_is_closed_train_and_soup(tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path)
    (workdir.folder / "quiet.sh").write_text(f'exec {sys.executable} -m gnnsoup_hpc "$@" >&-\n')
    words = [mpirun(), "-n", "2", "sh", "quiet.sh", "run", JOB, *FEW]
    outcome = subprocess.run(words, cwd=workdir.folder, capture_output=True, text=True, timeout=600, check=False)
    assert outcome.returncode == 1, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert f"[rank 0/2] {MARK}stdout cannot be written: it is closed" in outcome.stderr
    assert whole(workdir.report)


class Failing(io.StringIO):
    """Takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_channel_notes_the_first_loss_and_stays_quiet() -> None:
    here = Terminal(Channel(Failing()), Channel(Failing()))
    for _ in range(3):
        print("lost", file=here.out)  # type: ignore[call-overload]
        here.err.write("lost")
    assert here.out.lost == "Input/output error"
    assert here.end(0) == 1
    assert here.end(75) == 75


@pytest.mark.parametrize("start", ["run", "report"])
def test_the_report_is_written_before_it_is_told(workdir: Workdir, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    def table(run: object) -> str:
        raise ZeroDivisionError

    workdir.report.unlink()
    monkeypatch.setattr("gnnsoup_hpc.cli.report.show_brief", table)
    with pytest.raises(ZeroDivisionError):
        kit.here(*(["run", JOB, *FEW] if start == "run" else ["report", "runs/tiny"]), cwd=workdir.folder)
    assert whole(workdir.report)


@pytest.mark.parametrize("before", [True, False], ids=["with a report", "without one"])
def test_a_run_that_may_only_be_read_is_reported_and_looked_at(workdir: Workdir, before: bool) -> None:
    if not before:
        workdir.report.unlink()
    with kit.read_only(workdir.root):
        said = kit.succeeds(kit.here("report", "runs/tiny", cwd=workdir.folder))
        assert "uniform" in said
        assert said.splitlines()[-1].startswith("runs/tiny/report.h5 is not written: the run may only be read here (")
        assert "is counted once" in kit.succeeds(kit.here("report", "runs/tiny", "runs/tiny", cwd=workdir.folder))
        assert "2 finished" in kit.succeeds(kit.here("status", "runs/tiny", cwd=workdir.folder))
        kit.fails(kit.here("soup", JOB, *FEW, "--again", cwd=workdir.folder), "cannot be written")


def test_a_report_that_does_not_fit_on_the_disk_is_told_and_is_an_error(
    workdir: Workdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    outcome = kit.here("report", "runs/tiny", cwd=workdir.folder)
    kit.fails(outcome, "report.h5 cannot be written: No space left on device")
    assert "uniform" in outcome.stdout


def test_the_stack_of_ingredients_reads_as_nan_away_from_their_files(workdir: Workdir, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    for path, is_there in ((workdir.root / "ingredients.h5", True), (away / "ingredients.h5", False)):
        if not is_there:
            shutil.copy(workdir.root / "ingredients.h5", path)
        with h5py.File(path, "r") as file:
            for name, stack in file["state"].items():
                assert np.isnan(stack[...]).all() != is_there, name
                assert np.isfinite(stack[...]).all() == is_there, name


def test_metis_own_words_are_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    edges = np.array([0, 1, 2]), np.array([1, 0]), np.array([], dtype=np.int64)
    cut_with_metis(edges, np.array([1, 1]), PartitionJob(parts=8))  # METIS says: too many parts
    print("after")
    said = capfd.readouterr()
    assert said.out == "before\nafter\n"
    assert "too many parts" in said.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), "", id="byte-order mark"),
        pytest.param(lambda text: text.encode().replace(b"\n", b"\r\n"), "", id="lines of Windows"),
        pytest.param(lambda text: text.encode("utf-16"), "not UTF-8 text (at byte 0)", id="UTF-16"),
        pytest.param(lambda text: text.encode("utf-32"), "not UTF-8 text (at byte 0)", id="UTF-32"),
        pytest.param(lambda text: text.encode("utf-16-le"), "not valid TOML", id="UTF-16 without a mark"),
        pytest.param(lambda text: b"# caf\xe9\n" + text.encode(), "not UTF-8 text (at byte 5)", id="Latin 1"),
        pytest.param(lambda text: b"\xef\xbb\xbf" * 2 + text.encode(), "not valid TOML", id="two marks"),
    ],
)
def test_job_files_of_other_editors(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content(jobs.find("pubmed").read_text()))  # type: ignore[operator]
    if not says:
        assert jobs.load(str(path)) == jobs.load("pubmed")
        return
    with pytest.raises(JobError) as error:
        jobs.load(str(path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").symlink_to("gone.toml")
    with pytest.raises(MissingJobError, match=r"it is a link to 'gone[.]toml', where no file is"):
        jobs.load(str(tmp_path / "mine.toml"))


LONG = 300 * "x"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["job", LONG], 2, id="a job"),
        pytest.param(["run", f"{LONG}.toml"], 2, id="a job file"),
        pytest.param(["status", LONG], 1, id="a run"),
        pytest.param(["report", LONG], 1, id="a run to report"),
        pytest.param(["diagnose", LONG], 1, id="a run to diagnose"),
        pytest.param(["prepare", JOB, "--set", f"name={LONG}"], 2, id="a name"),
        pytest.param(["prepare", JOB, "--set", f"runs={LONG}"], 1, id="a folder of runs"),
        pytest.param(["train", JOB, "--set", f"runs={LONG}"], 1, id="a folder of runs to train in"),
        pytest.param(["bench", "--quality", LONG], 1, id="a run to measure"),
        pytest.param(["bench", "--output", f"{LONG}/x"], 1, id="a file for measurements"),
        pytest.param(["job", "~nobody-of-this-name/x"], 1, id="nobody's home"),
        pytest.param(["status", "~nobody-of-this-name/x"], 1, id="nobody's home for a run"),
    ],
)
def test_names_that_no_file_can_have_are_one_line(workdir: Workdir, words: list[str], code: int) -> None:
    outcome = kit.here(*words, cwd=workdir.folder)
    kit.fails(outcome)
    assert outcome.returncode == code


NO_UTF8 = os.fsdecode(b"d\xff")


@pytest.mark.parametrize("command", ["status", "report", pytest.param("diagnose", marks=pytest.mark.slow)])
def test_a_run_in_a_folder_whose_name_is_no_utf8(workdir: Workdir, command: str) -> None:
    (workdir.folder / "runs").rename(workdir.folder / NO_UTF8)
    words = [command, f"{NO_UTF8}/tiny", *(["--again"] if command == "diagnose" else [])]
    kit.succeeds(shell(workdir.folder, *words))
    kit.succeeds(shell(workdir.folder, *words, **ASCII))


def test_a_job_file_and_a_folder_whose_names_are_no_utf8(tmp_path: Path) -> None:
    plain = kit.make_workdir(tmp_path / "plain")
    workdir = Workdir(plain.folder.rename(tmp_path / NO_UTF8))
    (workdir.folder / JOB).rename(workdir.folder / f"{NO_UTF8}.toml")
    kit.succeeds(shell(workdir.folder, "run", f"{NO_UTF8}.toml", *FEW))
    assert whole(workdir.report)
    kit.fails(shell(workdir.folder, "prepare", f"{NO_UTF8}.toml", "--set", f"runs={NO_UTF8}"), "runs", "unicode")
