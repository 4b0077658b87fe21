"""`python -m tests.golden.make`: write the golden files of today's format version, which tests read for ever.

They are a whole run on a graph of 24 nodes. A folder that is there is never written again, for users have files of its
version; a new version gets a folder of its own.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.io import diagnosis, graph, ingredient, report, soup, trunk

VERSION = max(graph.VERSION, ingredient.VERSION, soup.VERSION, report.VERSION, diagnosis.VERSION)
FOLDER = Path(__file__).resolve().parent / f"v{VERSION}"
TRUNK = Path(__file__).resolve().parent / f"trunk-v{trunk.VERSION}"  # of a run with train.trunk_epochs = 2

NODES = 24
JOB = """\
name = "golden"
[graph]
source = "npz:golden.npz"
split = "stored"
features = "standardise"
[partition]
parts = 4
[model]
kind = "gat"
hidden = 4
heads = 2
norm = "layer"
[train]
ingredients = 2
epochs = 3
dropout = 0.0
[train.vary]
learning_rate = [0.05, 0.1]
[soup]
methods = ["gis", "pls", "ensemble"]
[soup.gis]
granularity = 3
[soup.pls]
epochs = 2
union = 2
[machine]
device = "cpu"
threads = 1
"""


def ring() -> dict[str, np.ndarray]:
    """A directed ring with a loop at node 0; node 23 stands alone and has no label. One feature is the class."""
    nodes = np.arange(NODES)
    y = np.where(nodes < NODES - 1, nodes // 8 % 2, -1)
    x = np.stack([y, nodes / NODES, np.ones(NODES)], axis=1).astype(np.float32)
    edges = np.stack([nodes[:-2], nodes[1:-1]])
    return {
        "x": x,
        "y": y,
        "edge_index": np.concatenate([edges, [[0], [0]]], axis=1),
        "train_idx": nodes[0:23:3],
        "valid_idx": nodes[1:23:3],
        "test_idx": nodes[2:23:3],
    }


@contextmanager
def nowhere() -> Iterator[Path]:
    """A folder of its own to work in; no file says on which machine."""
    with (
        tempfile.TemporaryDirectory() as work,
        chdir(work),
        mock.patch("socket.gethostname", return_value="golden"),
        mock.patch("platform.platform", return_value="Linux"),
    ):
        torch.manual_seed(0)
        yield Path(work)


def make(folder: Path, *words: str) -> None:
    """Run the pipeline and keep what it wrote."""
    with nowhere():
        np.savez("golden.npz", **ring())
        Path("golden.toml").write_text(JOB, encoding="utf-8")
        if main(["run", "golden.toml", *words]):
            sys.exit("the run failed")
        shutil.copytree("runs/golden", folder, ignore=shutil.ignore_patterns("leases"))


def add_diagnosis(folder: Path) -> None:
    """Diagnose a run that is there: this kind of file came later than the others of version 1."""
    with nowhere():
        shutil.copytree(folder, "runs/golden")
        if main(["diagnose", "runs/golden"]):
            sys.exit("the diagnosis failed")
        shutil.copy("runs/golden/diagnosis.h5", folder)


if __name__ == "__main__":
    runs: dict[Path, tuple[str, ...]] = {FOLDER: (), TRUNK: ("--set", "train.trunk_epochs=2")}
    missing = {folder: words for folder, words in runs.items() if not folder.exists()}
    later = [FOLDER] if FOLDER.exists() and not (FOLDER / "diagnosis.h5").exists() else []
    if not missing and not later:
        sys.exit(f"{', '.join(map(str, runs))} are there; golden files are written once")
    for folder, words in missing.items():
        make(folder, *words)
    for folder in later:
        add_diagnosis(folder)
