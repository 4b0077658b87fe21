"""A finished run to hurt, ways to hurt it, and what an error must look like. Used by tests/ranks too."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.runtime import processes
from tests.once import make_once
from tests.tiny import JOB_FILE as JOB
from tests.tiny import command, write_job

MARK = "gnnsoup: error: "


@dataclass(frozen=True)
class Workdir:
    """A folder with tiny.toml, tiny.npz and runs/tiny. It may be copied, for all paths in it are relative."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "runs" / "tiny"

    @property
    def graph(self) -> Path:
        return self.root / "graph.h5"

    @property
    def initial(self) -> Path:
        return self.root / "initial.h5"

    @property
    def report(self) -> Path:
        return self.root / "report.h5"

    def ingredient(self, index: int) -> Path:
        return self.root / "ingredients" / f"{index:04d}.h5"

    def soup(self, method: str) -> Path:
        return self.root / "soups" / f"{method}.h5"

    def gnnsoup(self, name: str, *words: object, ranks: int = 0) -> subprocess.CompletedProcess[str]:
        """`gnnsoup NAME tiny.toml WORDS` in the folder."""
        return command(name, JOB, *words, cwd=self.folder, ranks=ranks)

    def gnnsoup_here(self, name: str, *words: object) -> subprocess.CompletedProcess[str]:
        """The same in this process, which spares its start."""
        return here(name, JOB, *words, cwd=self.folder)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file of the run but leases, by its path in the run."""
        files = [path for path in self.root.rglob("*") if path.is_file() and path.parent.name != "leases"]
        return {str(path.relative_to(self.root)): digest(path) for path in files}

    def change_job(self, old: str, new: str) -> None:
        """Replace a line of the job file, which must be there."""
        path = self.folder / JOB
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def replace_source(self, **arrays: Any) -> None:
        """Write tiny.npz anew, with these arrays beside or in place of its own."""
        with np.load(self.folder / "tiny.npz") as archive:
            known = {name: archive[name] for name in archive.files}
        np.savez(self.folder / "tiny.npz", **(known | arrays))


def here(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`gnnsoup WORDS` in folder `cwd`, in this process: what `tests.tiny.command` does, but for a process's start."""
    hook, threads, out, err = sys.excepthook, torch.get_num_threads(), io.StringIO(), io.StringIO()
    try:
        with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            code = main([str(word) for word in words])
    finally:
        sys.excepthook = hook
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


def make_workdir(folder: Path, **options: Any) -> Workdir:
    """A job and its graph in `folder`, with nothing run yet."""
    path = write_job(folder, **options)
    path.write_text(path.read_text().replace(str(folder / "tiny.npz"), "tiny.npz"))
    return Workdir(folder)


def make_finished(factory: pytest.TempPathFactory, **options: Any) -> Workdir:
    """A finished run, made once a session for each set of options; copy it before you change anything."""
    name = "-".join(["finished", *(f"{key}{value}" for key, value in options.items())])
    return Workdir(
        make_once(factory, name, lambda folder: succeeds(make_workdir(folder, **options).gnnsoup_here("run")))
    )


def copy_workdir(workdir: Workdir, folder: Path) -> Workdir:
    """A copy of a run that a test may change."""
    return Workdir(Path(shutil.copytree(workdir.folder, folder, dirs_exist_ok=True)))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def succeeds(outcome: subprocess.CompletedProcess[str]) -> str:
    """Assert that a command ended well; its standard output."""
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert MARK not in outcome.stderr
    return outcome.stdout


def fails(outcome: subprocess.CompletedProcess[str], *names: str) -> str:
    """Assert that a command ended in one clear line on stderr that holds all `names`; the line."""
    assert outcome.returncode > 0, f"exit code {outcome.returncode}\n{outcome.stdout}{outcome.stderr}"
    assert "Traceback" not in outcome.stderr, outcome.stderr
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith(MARK), lines[0]
    return _naming(lines[0], names)


def fails_under_mpirun(outcome: subprocess.CompletedProcess[str], *names: str, each: bool = False) -> str:
    """The same for `mpirun`, which adds lines of its own; `each` rank may say its line, or else only one does."""
    assert outcome.returncode > 0, f"exit code {outcome.returncode}\n{outcome.stdout}{outcome.stderr}"
    assert "Traceback" not in outcome.stderr, outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if MARK in line]
    assert lines, outcome.stdout + outcome.stderr
    assert all(line.startswith("[rank ") for line in lines), lines
    ranks = [line.partition("]")[0] for line in lines]
    assert len(ranks) == len(set(ranks)), lines
    assert each or len(lines) == 1, lines
    return _naming(lines[0], names)


def _naming(line: str, names: Iterable[str]) -> str:
    for name in names:
        assert name in line, f"{name!r} is not named in: {line}"
    return line


def unchanged(before: Mapping[str, str], workdir: Workdir, but: Iterable[str] = ()) -> None:
    """Assert that every file of before is there with the same bytes, `but` these."""
    after = workdir.digests()
    kept = {name: value for name, value in before.items() if name not in set(but)}
    assert {name: after.get(name) for name in kept} == kept


def truncate(path: Path, share: float = 0.5) -> None:
    """Keep the first `share` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def flip(path: Path, position: float) -> None:
    """Flip one bit of a file, at this share of its length."""
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def left_by_the_dead(path: Path) -> Path:
    """What a killed process left beside `path` under its private name; the folder is made."""
    private = processes.private_name(path)
    left = private.with_name(private.name.removesuffix(str(os.getpid())) + "999999999")  # above any process's number
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    return left


def dataset(path: Path, name: str) -> np.ndarray[Any, Any]:
    """One dataset of an HDF5 file."""
    with h5py.File(path, "r") as file:
        return np.asarray(file[name][...])


def texts(path: Path, name: str) -> list[str]:
    """The strings of a dataset."""
    with h5py.File(path, "r") as file:
        return list(file[name].asstr()[:])


def content(path: Path) -> str:
    """Hash of what an ingredient holds but times."""
    with h5py.File(path, "r") as file:
        return str(file.attrs["content_sha256"])


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """`mount WORDS FOLDER` for the time of the block; skips the test where this user cannot mount."""
    _mount([*words, str(folder)])
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder unwritable: by its modes, or for root, whom modes do not hold, by a read-only mount."""
    if os.geteuid() == 0:
        with mounted(folder, "--bind", str(folder)):
            _mount(["-o", "remount,ro,bind", str(folder)])
            yield
        return
    below = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in below}
    try:
        for path in reversed(below):
            path.chmod(modes[path] & ~0o222)
        yield
    finally:
        for path in below:
            path.chmod(modes[path])


def _mount(words: list[str]) -> None:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("this needs a mount, and only root can mount")
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this needs a mount, and none can be made here: {done.stderr.strip()}")
