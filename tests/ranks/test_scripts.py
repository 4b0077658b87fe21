"""The batch scripts under plain bash, without Slurm: one rank does what a cluster's ranks would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import kit
from tests.faults.kit import Workdir

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "slurm"


def _bash(script: str | Path, *words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`bash slurm/SCRIPT WORDS` in `cwd`, outside of any Slurm job."""
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet["GNNSOUP_LAUNCHER"] = "none"  # whether or not this machine has a Slurm to submit to
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *map(str, words)],
        cwd=cwd,
        env=quiet | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_training_then_souping(tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path / "with a blank")
    said = kit.succeeds(_bash("train_ingredients.sh", "tiny.toml", cwd=workdir.folder))
    assert all(f"ingredient {index:04d} done" in said for index in range(3))
    said = kit.succeeds(_bash("soup.sh", "tiny.toml", "--set", "soup.methods=['ls', 'pls']", cwd=workdir.folder))
    assert "soup: pls done" in said
    assert kit.texts(workdir.report, "methods/method") == ["ls", "pls"]


def test_the_whole_pipeline_goes_on_where_it_was(workdir: Workdir) -> None:
    workdir.ingredient(2).unlink()
    said = kit.succeeds(_bash("pipeline.sh", "tiny.toml", cwd=workdir.folder))
    assert "2 of 3 ingredients are there already" in said
    assert "ingredient 0002 done" in said
    assert "soup: pls is there already" in said


def test_an_installed_package_writes_scripts_that_run_it(tmp_path: Path) -> None:
    """Built as people get it (a source distribution, of which pip makes a wheel), far from any checkout."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("gnnsoup_hpc", "jobs", "slurm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    _python("-c", "from setuptools.build_meta import build_sdist; build_sdist('.')", cwd=source)
    (archive,) = source.glob("*.tar.gz")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--disable-pip-version-check")
    _python("-m", "pip", "install", *offline, "--target", site, archive, cwd=tmp_path)

    workdir = kit.make_workdir(tmp_path / "with a blank")
    scripts = tmp_path / "my scripts, it's them"
    for command in (["slurm", scripts], ["job", "pubmed"]):  # one of the bundled jobs, which come likewise
        _python("-m", "gnnsoup_hpc", *command, cwd=workdir.folder, PYTHONPATH=str(site))
    written = {path.name: path.read_text() for path in scripts.glob("*.sh")}
    assert written.keys() == {path.name for path in SCRIPTS.glob("*.sh")}
    words = ("tiny.toml", "--set", "train.ingredients=1", "--set", "model.kind=gin")  # for which little is compiled
    train = scripts / "train_ingredients.sh"
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site)}  # no Python of an environment there
    said = kit.succeeds(_bash(train, *words, cwd=workdir.folder, **bare))
    assert "ingredient 0000 done" in said
    said = _bash(train, *words, cwd=workdir.folder, **bare, GNNSOUP_PYTHON="/no/python").stderr
    assert "GNNSOUP_PYTHON=/no/python: there is no such program here" in said


def _python(*words: object, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("script", ["train_ingredients.sh", "soup.sh", "pipeline.sh"])
def test_an_error_is_the_exit_code_of_the_script(tmp_path: Path, script: str) -> None:
    outcome = _bash(script, "none.toml", cwd=tmp_path)
    kit.fails(outcome, "'none.toml'")
    assert outcome.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_rank_under_mpirun_hears_signals_and_leaves_its_code(tmp_path: Path, number: signal.Signals) -> None:
    """To mpirun it says 0, so that it ends no other rank."""
    hears = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); print(1, flush=True)"
    words = [SCRIPTS / "rank.sh", tmp_path / "code", sys.executable, "-c", f"{hears}; time.sleep(600)"]
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        rank.stdout.readline()
        rank.send_signal(number)
        assert rank.wait(600) == 0
    (code,) = tmp_path.glob("code.*")
    assert code.read_text() == "75\n"
