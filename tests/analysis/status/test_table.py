"""What `gnnsoup status` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.runtime import status_files
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs

pytestmark = pytest.mark.usefixtures("own_excepthook")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def root(finished: Job, tmp_path: Path) -> Path:
    """A run of 40 ingredients, three of which are there, and one failed."""
    job = runs.change_job(runs.copy_run(finished, tmp_path), "train.ingredients=40")
    run = RunDir.of(job)
    run.job.write_text(job.to_toml())
    status_files.write(
        run.failure("ingredient-0007"), {"why": "it diverged", "when": 0.0, "times": 3, "host": "n1", "rank": 2}
    )
    return run.root


def lines(said: str) -> dict[str, str]:
    """Rest of each line by its first word."""
    return dict(line.split(maxsplit=1) for line in said.splitlines() if line.strip() and " " in line)


def test_many_ingredients_are_counted_and_those_in_trouble_listed(root: Path, capsys: Captured) -> None:
    assert main(["status", str(root)]) == 0
    said = capsys.readouterr().out
    assert "40: 3 finished, 1 failed, 36 waiting" in said
    listed = lines(said)
    assert "0000" not in listed
    assert "0008" not in listed
    assert "rank 2, n1" in listed["0007"]
    assert "3 times: it diverged" in listed["0007"]
    assert "8 of 8 made" in listed["soups"]


def test_all_lists_everything(root: Path, capsys: Captured) -> None:
    assert main(["status", str(root), "--all"]) == 0
    listed = lines(capsys.readouterr().out)
    assert listed["0000"].startswith("finished")
    assert listed["0039"].startswith("waiting")


def test_json_has_everything(root: Path, capsys: Captured) -> None:
    assert main(["status", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"finished": 3, "running": 0, "silent": 0, "failed": 1, "damaged": 0, "waiting": 36}
    assert len(found["ingredients"]) == 40
    assert found["ingredients"][7]["why"] == "it diverged"
    assert found["sizes"]["nodes"] == 300
    assert [soup["method"] for soup in found["soups"]][:2] == ["best", "uniform"]


def test_a_job_file_names_its_run_too(root: Path, capsys: Captured) -> None:
    assert main(["status", str(root / "job.toml")]) == 0
    assert "40: 3 finished" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_said(tmp_path: Path, capsys: Captured) -> None:
    assert main(["status", str(tmp_path)]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err
