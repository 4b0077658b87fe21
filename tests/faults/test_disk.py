"""A folder that cannot be written, a disk that is full, an output that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faults import kit
from tests.faults.kit import JOB, MARK, Workdir, fails, mounted, read_only, succeeds, unchanged


def test_a_read_only_run(workdir: Workdir) -> None:
    before = workdir.digests()
    with read_only(workdir.folder / "runs"):
        succeeds(workdir.gnnsoup_here("prepare"))
        fails(workdir.gnnsoup_here("soup", "--again"), "runs/tiny/alignment.h5", "cannot be written", "writable")
        unaligned = workdir.gnnsoup_here("soup", "--again", "--set", "soup.align=none", "--set", "soup.seed=5")
        fails(unaligned, "runs/tiny/", "cannot be written", "writable")
        fails(
            workdir.gnnsoup_here("train", "--set", "train.ingredients=4"), "runs/tiny", "cannot be written", "writable"
        )
        fails(workdir.gnnsoup_here("run", "--set", "name=other"), "runs/", "cannot be written", "writable")
        said = succeeds(kit.here("report", "runs/tiny", cwd=workdir.folder))
        assert "runs/tiny/report.h5 is not written: the run may only be read here" in said
    assert workdir.digests() == before


@pytest.mark.parametrize("room", [48, 96, 192], ids=lambda room: f"{room} KiB")
def test_a_full_disk(empty: Workdir, original: Workdir, room: int) -> None:
    """It fills while the graph, an ingredient, a soup is written, as room grows."""
    runs = empty.folder / "runs"
    runs.mkdir()
    with mounted(runs, "-t", "tmpfs", "-o", f"size={room}k", "tmpfs"):
        outcome = empty.gnnsoup_here("run")
        before = empty.digests()
        fails(outcome, "runs/", "cannot be written: No space left on device", "same command")
        assert not [path for path in empty.root.rglob(".*") if path.is_file()], "unfinished files are left"
        subprocess.run(["mount", "-o", "remount,size=4m", str(runs)], check=True)
        succeeds(empty.gnnsoup_here("run"))
        unchanged(before, empty, but=["ingredients.h5"])
        for index in range(3):
            assert kit.content(empty.ingredient(index)) == kit.content(original.ingredient(index))


def test_an_output_that_nobody_reads_does_not_blame_a_file(workdir: Workdir) -> None:
    """`gnnsoup soup | head -1`: whatever ends, no file is said to be damaged, and none is."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "gnnsoup_hpc", "soup", JOB, "--again"]
    outcome = subprocess.run(
        words, cwd=workdir.folder, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=600, check=False
    )
    os.close(writing)
    assert "damaged" not in outcome.stderr
    assert "Traceback" not in outcome.stderr, outcome.stderr
    assert outcome.stderr.count(MARK) <= 1
    assert set(workdir.digests()) >= {f"ingredients/{index:04d}.h5" for index in range(3)}
    succeeds(workdir.gnnsoup_here("run"))
