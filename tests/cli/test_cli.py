"""The entry points in this process: exit codes, one line for an error, the resolved job."""

from __future__ import annotations

import errno
import os
import runpy
import sys
from pathlib import Path

import pytest

from gnnsoup_hpc import __version__
from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.commands import COLLECTIVE, COMMANDS, COMPUTING
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.errors import FileError, Interrupted, JobError, Preempted, SoupError
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("own_excepthook")
Captured = pytest.CaptureFixture[str]


def failing(error: BaseException) -> int:
    def command(here: RankInfo) -> None:
        raise error

    return common.execute(command)


@pytest.mark.parametrize(
    ("error", "code"),
    [(JobError("no"), 2), (FileError("no"), 1), (SoupError("no"), 1), (Interrupted("no"), 130), (Preempted("no"), 75)],
)
def test_an_error_is_one_line_and_an_exit_code(error: SoupError, code: int, capsys: Captured) -> None:
    assert failing(error) == code
    assert capsys.readouterr().err == "gnnsoup: error: no\n"


def test_an_interrupt_is_no_traceback(capsys: Captured) -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == (
        "gnnsoup: error: interrupted at once; the same command goes on from the last checkpoint\n"
    )


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EACCES, errno.ESTALE, errno.EDQUOT, errno.EIO])
def test_a_file_that_cannot_be_used_is_one_line(number: int, capsys: Captured) -> None:
    error = OSError(number, os.strerror(number), "runs/mine/x.h5")
    assert failing(error) == 1
    why = f"{os.strerror(number)}; check the path and its permissions"
    assert capsys.readouterr().err == f"gnnsoup: error: runs/mine/x.h5 cannot be used: {why}\n"


def test_an_error_of_the_system_that_names_no_file_is_not_hidden() -> None:
    with pytest.raises(OSError, match="Cannot allocate"):
        failing(OSError(errno.ENOMEM, "Cannot allocate memory"))


@pytest.mark.parametrize("variables", [{"PMI_RANK": "0", "PMI_SIZE": "x"}, {"PMI_RANK": "3", "PMI_SIZE": "2"}])
def test_a_launcher_that_cannot_be_understood_is_one_line(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["job", "pubmed"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gnnsoup: error: PMI_")
    assert said.err.count("\n") == 1


def test_a_defect_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


def test_a_wrong_job_is_said_by_rank_0_alone(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(launch, "read_rank_info", lambda: RankInfo(1, 2, 1, 2, "here"))
    assert failing(JobError("no")) == 2
    assert capsys.readouterr().err == ""
    assert failing(FileError("no")) == 1
    assert capsys.readouterr().err == "[rank 1/2] gnnsoup: error: no\n"


def test_job_prints_a_job_that_loads(tmp_path: Path, capsys: Captured) -> None:
    assert main(["job", "pubmed-gat", "--set", "train.epochs=3", "--set", "name=mine"]) == 0
    path = tmp_path / "mine.toml"
    path.write_text(capsys.readouterr().out)
    assert jobs.load(str(path)) == jobs.load("pubmed-gat", ["train.epochs=3", "name=mine"])


def test_job_says_where_the_logs_of_batch_jobs_are(capsys: Captured) -> None:
    words = ["job", "pubmed", "--logs", "--memory-limit", "2 GiB", "--set", "runs=/scratch", "--set", "name=mine"]
    assert main(words) == 0
    assert capsys.readouterr().out == "/scratch/mine/logs\n"


def test_an_unknown_job_ends_with_code_2(capsys: Captured) -> None:
    assert main(["run", "nowhere.toml"]) == 2
    assert "there is no job file 'nowhere.toml'" in capsys.readouterr().err


def test_version_is_printed(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_help_tells_the_exit_codes(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for code in (1, 2, 3, 75, 130):
        assert f" {code} " in said.partition("exit codes:")[2]


def test_no_command_is_a_usage_error(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert f"gnnsoup {command}" in said
    assert " ".join(COMMANDS[command].split()[:3]) in said
    assert ("--set KEY=VALUE" in said) == (command != "slurm")  # which reads no job


def test_commands_that_are_collective_or_compute_are_commands() -> None:
    assert {*COLLECTIVE, *COMPUTING} <= COMMANDS.keys()


@pytest.mark.parametrize("room", ["soup", "train"])
def test_the_module_of_a_room_is_its_command(room: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([room, "--help"])
    monkeypatch.setattr(sys, "argv", ["__main__.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(f"gnnsoup_hpc.{room}", run_name="__main__")
    one, _, other = capsys.readouterr().out.partition("usage: ")[2].partition("usage: ")
    assert one == other


def test_report_prints_the_table_of_each_run_and_compares(finished: Job, capsys: Captured) -> None:
    root = str(RunDir.of(finished).root)
    assert main(["report", root]) == 0
    one = capsys.readouterr().out
    assert f"-> {RunDir.of(finished).report}" in one
    assert main(["report", root, root]) == 0
    assert f"{root} is the same experiment as {root}, and is counted once." in capsys.readouterr().out
    job = Path(finished.runs).parent / "again.toml"
    job.write_text(finished.model_copy(update={"name": "any"}).to_toml())
    assert main(["report", str(job), "--set", f"name={finished.name}", "--set", "soup.seed=7"]) == 0
    found = capsys.readouterr().out
    assert found.startswith(
        f"{root} was made with soup.seed = 0, and is read as it is: --set soup.seed changes nothing"
    )
    assert found.partition("\n")[2] == one
    assert main(["report", root, "--set", "soup.seed=7"]) == 2
    assert f"--set 'soup.seed=7': {root} is the folder of a run" in capsys.readouterr().err
    assert main(["report", "nowhere"]) == 1
    assert "nowhere is not the folder of a run" in capsys.readouterr().err
