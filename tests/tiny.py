"""A tiny real pipeline for tests: a planted graph in an npz file, a job on it, and commands run as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gnnsoup_hpc.config.methods import METHOD_NAMES

JOB_FILE = "tiny.toml"
NODES, FEATURES, CLASSES = 300, 12, 3

JOB = """\
name = "tiny"
[graph]
source = "npz:{npz}"
[partition]
parts = 8
[model]
kind = "{kind}"
hidden = 16
heads = {heads}
norm = "{norm}"
[train]
ingredients = {ingredients}
epochs = 12
learning_rate = 0.02
[soup]
methods = {methods}
[soup.gis]
granularity = 5
[soup.ls]
epochs = 6
[soup.pls]
epochs = 6
union = 3
[soup.distil]
epochs = 4
union = 3
[machine]
threads = 1
"""


def planted(seed: int = 0, nodes: int = NODES) -> dict[str, np.ndarray]:
    """Arrays of a planted-partition graph with class-dependent features, in the npz layout of docs/format.md."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, nodes)
    ends = rng.integers(0, nodes, (2, 12 * nodes))
    kept = (y[ends[0]] == y[ends[1]]) | (rng.random(ends.shape[1]) < 0.15)
    x = rng.normal(size=(nodes, FEATURES)) + np.eye(CLASSES, FEATURES)[y]
    return {"x": x.astype(np.float32), "y": y, "edge_index": ends[:, kept]}


def write_job(folder: Path, kind: str = "sage", heads: int = 1, norm: str = "none", ingredients: int = 3) -> Path:
    """A job file and its graph in `folder`; returns the job file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "tiny.npz", **planted())
    path = folder / JOB_FILE
    shape = {"kind": kind, "heads": heads, "norm": norm, "ingredients": ingredients}
    path.write_text(JOB.format(npz=folder / "tiny.npz", methods=list(METHOD_NAMES), **shape))
    return path


def mpirun() -> str:
    """The mpirun that belongs to this environment, or that the caller names; skips the test where there is none."""
    beside = Path(sys.executable).with_name("mpirun")
    found = os.environ.get("GNNSOUP_MPIRUN") or (str(beside) if beside.exists() else shutil.which("mpirun"))
    if not found:
        pytest.skip("no mpirun: run through `make test`, which installs one")
    return str(Path(found).absolute()) if Path(found).exists() else found


def command(*words: object, cwd: Path, ranks: int = 0, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """`python -m gnnsoup_hpc WORDS` in `cwd`, under `mpirun -n ranks` where ranks are given."""
    launcher = [mpirun(), "-n", str(ranks)] if ranks else []
    return subprocess.run(
        [*launcher, sys.executable, "-m", "gnnsoup_hpc", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
