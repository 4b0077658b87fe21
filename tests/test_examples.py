"""Each file of docs/examples runs as its page says, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
SECONDS = 600  # until a hang is called one
FILES = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".toml", ".sh"))
CALLS = {
    ".py": [sys.executable, "{}"],
    ".toml": [sys.executable, "-m", "gnnsoup_hpc", "run", "{}"],
    ".sh": ["bash", "{}"],
}


def run(name: str, folder: Path) -> str:
    """What an example prints. `gnnsoup` is that of the Python that runs the tests, and there is no Slurm."""
    for path in EXAMPLES.iterdir():
        shutil.copy(path, folder)
    command = folder / "bin" / "gnnsoup"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gnnsoup_hpc "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "GNNSOUP_LAUNCHER": "none"}
    words = [word.format(name) for word in CALLS[Path(name).suffix]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_names_them_all() -> None:
    assert sorted(re.findall(r"^\| \[(.*?)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)) == FILES
    assert len(FILES) == 8


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("checkpoints", "bounded"))])
def test_it_runs(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path)
    if name != "any_module.py":
        assert list(tmp_path.glob("runs/*/report.h5"))


def test_checkpoints_become_a_soup_that_plain_pyg_computes(tmp_path: Path) -> None:
    printed = run("checkpoints.py", tmp_path)
    reported = re.search(r"^\d +pls +\S+ +(\S+)", printed, re.MULTILINE)
    computed = re.search(r"test accuracy of the PLS soup in plain PyG: (\S+)", printed)
    assert reported is not None
    assert computed is not None
    assert float(computed[1]) == pytest.approx(float(reported[1]), abs=1e-6)


def test_a_limit_is_kept_and_too_little_is_refused(tmp_path: Path) -> None:
    printed = run("bounded.sh", tmp_path)
    methods = printed[printed.rindex("method,validation_accuracy,test_accuracy") :].splitlines()
    assert [line.split(",")[0] for line in methods] == ["method", "best", "pls"]
