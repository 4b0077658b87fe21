"""Three ranks that share one GPU: training, souping, and the same soups as one rank makes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.gpu.pipeline import SETS, accuracies
from tests.gpu.tools import attempt, command, gnnsoup, record


def check() -> None:
    """One run on three ranks; its soups again on one."""
    words = [*SETS, "--set", "name=ranks", "--set", "machine.device=cuda"]
    mpirun = str(Path(sys.executable).parent / "mpirun")
    said = command(mpirun, "-n", "3", sys.executable, "-m", "gnnsoup_hpc", "run", *words)
    record("three ranks: each says its GPU", said.count("device cuda:0"), "", said.count("device cuda:0") >= 3)
    shutil.copytree(Path("runs") / "ranks", Path("one") / "ranks")
    gnnsoup("soup", *words, "--again", "--set", "runs=one")
    three, one = accuracies(Path("runs") / "ranks"), accuracies(Path("one") / "ranks")
    for method, accuracy in three.items():
        record(f"{method}: three ranks less one", accuracy - one[method], "", abs(accuracy - one[method]) <= 0.01)


if __name__ == "__main__":
    attempt("three ranks", check)
