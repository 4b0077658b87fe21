"""`gnnsoup slurm`: what is written over, what is kept, and what is refused."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gnnsoup_hpc.__main__ import main

pytestmark = pytest.mark.usefixtures("own_excepthook")
Captured = pytest.CaptureFixture[str]
SCRIPTS = Path(__file__).resolve().parents[2] / "slurm"


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _of_another_version(path: Path, text: str) -> None:
    """Make a file one that the command wrote when it had other contents."""
    path.write_text(text)
    sums = path.with_name("SHA256SUMS")
    lines = [line for line in sums.read_text().splitlines() if not line.endswith(f"  {path.name}")]
    sums.write_text("\n".join([*lines, f"{hashlib.sha256(text.encode()).hexdigest()}  {path.name}"]) + "\n")


def test_scripts_are_written_as_they_are_and_name_the_python(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "new" / "folder"
    assert main(["slurm", str(folder)]) == 0
    written = _contents(folder)
    bundled = {path.name: path.read_bytes() for path in [*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("*.def")]}
    environment = bundled["environment.sh"] + f"GNNSOUP_PYTHON=${{GNNSOUP_PYTHON:-{sys.executable}}}\n".encode()
    sums = written.pop("SHA256SUMS").decode().splitlines()
    assert written == bundled | {"environment.sh": environment}
    assert sums == [f"{hashlib.sha256(written[name]).hexdigest()}  {name}" for name in sorted(written)]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in folder.glob("*.sh"))
    assert f"sbatch --ntasks=8 {folder}/train_ingredients.sh JOB" in capsys.readouterr().out
    assert main(["slurm", str(folder)]) == 0
    assert _contents(folder).items() >= written.items()


@pytest.mark.parametrize("python", ["/a python/it's", "/brace}$HOME`x`/python"])
def test_any_path_of_python_is_what_bash_reads(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    assert main(["slurm", str(tmp_path)]) == 0
    words = ["bash", "-c", 'source "$1"; printf %s "$GNNSOUP_PYTHON"', "bash", tmp_path / "environment.sh"]
    plain = {name: value for name, value in os.environ.items() if name != "GNNSOUP_PYTHON"}
    assert subprocess.run(words, env=plain, capture_output=True, text=True).stdout == python
    assert subprocess.run(words, env=plain | {"GNNSOUP_PYTHON": "x"}, capture_output=True, text=True).stdout == "x"


def test_scripts_of_another_version_are_written_anew(tmp_path: Path, capsys: Captured) -> None:
    assert main(["slurm", str(tmp_path)]) == 0
    now = _contents(tmp_path)
    _of_another_version(tmp_path / "soup.sh", "an old one")
    _of_another_version(tmp_path / "environment.sh", "GNNSOUP_PYTHON=of-an-old-one")
    assert main(["slurm", str(tmp_path)]) == 0
    assert _contents(tmp_path) == now


def test_what_was_changed_is_never_written_over(tmp_path: Path, capsys: Captured) -> None:
    assert main(["slurm", str(tmp_path)]) == 0
    _of_another_version(tmp_path / "launch.sh", "an old one")
    (tmp_path / "environment.sh").write_text("module load openmpi\n")
    (tmp_path / "soup.sh").write_text("#SBATCH --account=me\n")
    before = _contents(tmp_path)
    capsys.readouterr()
    assert main(["slurm", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"gnnsoup: error: {tmp_path}/soup.sh was changed since `gnnsoup slurm` wrote it")
    assert said.err.count("\n") == 1
    assert _contents(tmp_path) == before

    (tmp_path / "soup.sh").unlink()
    assert main(["slurm", str(tmp_path)]) == 0
    assert f"{tmp_path}/environment.sh was changed, and is kept" in capsys.readouterr().out
    after = _contents(tmp_path)
    assert after["environment.sh"] == before["environment.sh"]
    assert after["launch.sh"] == (SCRIPTS / "launch.sh").read_bytes()
    assert main(["slurm", str(tmp_path)]) == 0  # and is kept again
    assert _contents(tmp_path) == after


def test_scripts_of_somebody_else_are_refused(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "launch.sh").write_text("mine")
    assert main(["slurm", str(tmp_path)]) == 1
    assert "launch.sh was changed since `gnnsoup slurm` wrote it, or is another's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "launch.sh"]


def test_a_place_that_is_no_folder_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, words in ((file, "is not a folder"), (file / "x", "Not a directory")):
        assert main(["slurm", str(place)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"gnnsoup: error: {place}")
        assert words in said
        assert said.count("\n") == 1
