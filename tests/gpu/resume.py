"""A training that is stopped by SIGTERM and goes on has the weights of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

from tests.gpu.tools import attempt, gnnsoup, record

SETS = [
    "train.ingredients=1",
    "train.epochs=600",
    "train.checkpoint_seconds=0.5",
    "machine.device=cuda",
    "machine.threads=2",
]


def read_state(runs: str, name: str) -> dict[str, np.ndarray]:
    """The ingredient's weights."""
    with h5py.File(Path(runs) / name / "ingredients" / "0000.h5") as file:
        return {key: file["state"][key][()] for key in file["state"]}


def check(kind: str) -> None:
    """Both, of one kind of model."""
    words = [w for each in [*SETS, f"model.kind={kind}", f"name={kind}"] for w in ("--set", each)]
    gnnsoup("prepare", *words, "--set", "runs=a")
    gnnsoup("prepare", *words, "--set", "runs=b")
    process = subprocess.Popen([sys.executable, "-m", "gnnsoup_hpc", "train", *words, "--set", "runs=b"])
    deadline = time.monotonic() + 60
    while not list(Path("b", kind).rglob("*checkpoint*")) + list(Path("b", kind, "checkpoints").glob("*")):
        assert time.monotonic() < deadline, "no checkpoint within a minute"
        assert process.poll() is None, "training ended before a checkpoint"
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    record(f"{kind}: exit code when stopped", code, "", code == 75)
    said = gnnsoup("train", *words, "--set", "runs=b")
    goes_on = "goes on" in said or "epoch" in said
    gnnsoup("train", *words, "--set", "runs=a")
    one, two = read_state("a", kind), read_state("b", kind)
    same = all(np.array_equal(one[name], two[name]) for name in one)
    record(f"{kind}: stopped and gone on, the same bits", same, "", same, "" if goes_on else "said nothing of it")


def main() -> None:
    """Of two kinds."""
    for kind in ("sage", "gat"):
        attempt(kind, lambda kind=kind: check(kind))


if __name__ == "__main__":
    main()
