"""What is trained has the same bits for any number of threads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs
from tests.faults import kit

BATCHES = {
    "full": (),
    "cluster": ("train.batch=cluster", "train.clusters=4"),
    "neighbour": ("train.batch=neighbour", "train.batch_size=60", "train.fanout=[4, 3]"),
    "bfloat16": ("train.precision=bfloat16",),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", ["sage", "gcn", "gat"])
def test_weights_do_not_depend_on_the_number_of_threads(
    kind: str, batch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, of a graph that is cut into many sections, so that threads have work to share."""
    monkeypatch.setattr("gnnsoup_hpc.engine.sharding.SECTION_ROWS", 30)
    monkeypatch.setattr(launch, "check_precision", lambda *words: None)
    job = runs.prepare_run(tmp_path, "train.ingredients=1", "train.epochs=3", *BATCHES[batch], kind=kind)
    found, threads = set(), torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        runs.train(job)
        found.add(kit.content(RunDir.of(job).ingredient(0)))
        shutil.rmtree(RunDir.of(job).ingredients)
        RunDir.of(job).gathered.unlink()
    torch.set_num_threads(threads)
    assert len(found) == 1
