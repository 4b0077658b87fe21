"""A model and a method are added in one file and one line each, in a copy of the package, and serve everywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

import gnnsoup_hpc
from gnnsoup_hpc.config.methods import METHODS

PACKAGE, HERE = Path(gnnsoup_hpc.__file__).parent, Path(__file__).parent
JOB = """
name = "extended"
graph = {source = "synthetic:arxiv", synthetic = {scale = 0.004}}
partition = {parts = 4}
model = {kind = "gin", hidden = 8}
train = {ingredients = 3, epochs = 4}
soup = {methods = METHODS, ls = {epochs = 3}, pls = {epochs = 3, union = 2}, distil = {epochs = 2}}
"""


class Extended:
    """The copy, and a folder to run commands in; what the whole job said."""

    said = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PACKAGE, folder / "gnnsoup_hpc")
        shutil.copytree(PACKAGE.parent / "jobs", folder / "jobs")
        (folder / "job.toml").write_text(JOB.replace("METHODS", str([*METHODS, "half"])))
        self.add(
            "gin.py", "models/convolutions", "models/convolutions/__init__.py", '"gat": "gat.Gat",', '"gin": "gin.Gin",'
        )
        self.add(
            "half.py",
            "soup/methods",
            "config/methods.py",
            '"best": "baselines.BestIngredient",',
            '"half": "half.BetterHalf",',
        )

    def add(self, file: str, room: str, table: str, after: str, line: str) -> None:
        """One file and one line."""
        shutil.copy(HERE / file, self.folder / "gnnsoup_hpc" / room / file)
        path = self.folder / "gnnsoup_hpc" / table
        text = path.read_text()
        assert text.count(after) == 1
        path.write_text(text.replace(after, f"{after}\n    {line}"))

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Python in the folder, on the copy."""
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """The copy, with the whole job run once."""
    made = Extended(tmp_path_factory.mktemp("extended"))
    done = made("-m", "gnnsoup_hpc", "run", "job.toml", "--verbose")
    assert done.returncode == 0, done.stderr
    made.said = done.stdout
    return made


def test_gin_is_trained_souped_by_every_method_diagnosed_and_reported(extended: Extended) -> None:
    said = extended.said
    assert len(re.findall("ingredient 000. done", said)) == 3
    methods = [*METHODS, "half"]
    assert all(f"soup: {method} done" in said for method in methods)
    assert re.search("runs/extended: gin, 2 layers, hidden 8, on", said)
    assert "in basin" in said
    with h5py.File(extended.folder / "runs/extended/report.h5") as file:
        assert sorted(name.decode() for name in file["methods/method"][:]) == sorted(methods)
    with h5py.File(extended.folder / "runs/extended/soups/half.h5") as file:
        assert sorted(file["mixture/alpha"][0].tolist()) == [0.0, 0.5, 0.5]


def test_gin_is_aligned_only_in_words(extended: Extended) -> None:
    done = extended("-m", "gnnsoup_hpc", "soup", "job.toml", "--set", "soup.align=weights")
    assert done.returncode != 0
    assert "a model of kind 'gin' does not say which of its units may be permuted; use 'auto' or 'none'" in done.stderr


def test_gin_is_pygs_and_evaluated_layer_by_layer(extended: Extended) -> None:
    done = extended(str(HERE / "layers.py"), "job.toml", str(extended.folder / "scratch"))
    assert done.returncode == 0, done.stderr
    to_pyg, to_blocks = map(float, done.stdout.split())
    assert to_pyg < 1e-5
    assert to_blocks < 1e-5


def test_what_the_new_model_does_not_take_is_said(extended: Extended) -> None:
    done = extended("-m", "gnnsoup_hpc", "job", "job.toml", "--set", "model.kind=gim")
    assert "model.kind = 'gim': input should be 'gcn', 'sage', 'gat', 'gin', 'gatv2'," in done.stderr
    done = extended("-m", "gnnsoup_hpc", "job", "job.toml", "--set", "model.heads=2")
    assert done.returncode == 2
    assert "model: heads = 2 is for kind = 'gat' or 'gatv2'; gin has none" in done.stderr
