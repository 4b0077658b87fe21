"""`python -m tests.golden.make`: write the golden files of today's format versions, which tests read for ever.

They come of a run on a graph of 24 nodes. A folder that is there is never written again, for users have files of its
versions; a new version of a kind of file gets a folder of its own, and holds that kind alone.
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
from gnnsoup_hpc.io import ingredient
from gnnsoup_hpc.runtime.run_dir import RunDir

HERE = Path(__file__).resolve().parent
FIRST = HERE / "v1"  # a whole run, every kind of file in its version 1
TRUNK = HERE / "trunk-v1"  # of a run with train.trunk_epochs = 2
SECOND = HERE / "v2"  # graph.h5 alone
IMPORTED = HERE / "imported-v1"  # imported.h5, of an ingredient of the first run and of plain weights
NUMBERS = HERE / "numbers"  # of a regression: graph.h5, an ingredient, a soup and a diagnosis of its targets
# What makes a folder; those that no command is given for are of earlier versions of this package.
COMMANDS = {
    SECOND: ("prepare",),
    IMPORTED: ("import", "given.h5", "plain.pt"),
    NUMBERS: ("run", "--set", "task.metric=mae"),
}
_LEFT_OUT = ("leases", "alignment.h5", "report.h5", "ingredients.h5", "0001.h5", "gis.h5", "ensemble.h5")  # of NUMBERS

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


def number() -> dict[str, np.ndarray]:
    """The ring with two numbers a node in place of a class, some of which are missing."""
    arrays = ring()
    y = np.stack([5.8e6 + 10.0 * arrays["y"] + np.arange(NODES) / 8.0, np.arange(NODES) / 4.0], axis=1)
    y[23], y[2, 0], y[4, 1] = np.nan, np.nan, np.nan
    return arrays | {"y": y}


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
    """Give a command and keep the files that it wrote."""
    with nowhere():
        np.savez("golden.npz", **(number() if folder == NUMBERS else ring()))
        Path("golden.toml").write_text(JOB, encoding="utf-8")
        shutil.copyfile(RunDir(FIRST).ingredient(0), "given.h5")
        torch.save({"model": ingredient.read(RunDir(FIRST).ingredient(1)).state}, "plain.pt")
        if main([words[0], "golden.toml", *words[1:]]):
            sys.exit("the command failed")
        shutil.copytree("runs/golden", folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))


if __name__ == "__main__":
    missing = {folder: words for folder, words in COMMANDS.items() if not folder.exists()}
    if not missing:
        sys.exit(f"{', '.join(map(str, COMMANDS))}: there already; golden files are written once")
    for folder, words in missing.items():
        make(folder, *words)
