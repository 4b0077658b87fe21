"""Downloaded and generated sets that go wrong: one line, nothing that looks complete, and the same command resumes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import h5py
import pytest

from gnnsoup_hpc.config import loading as jobs
from tests import runs
from tests.data.sources import layouts
from tests.faults import kit
from tests.faults.kit import fails, here, mounted, succeeds
from tests.processes import GUARD, plant, wait_until
from tests.tiny import command

ARXIV = """\
name = "arxiv"
[graph]
source = "ogb:ogbn-arxiv"
root = "sets"
[partition]
parts = 4
[model]
hidden = 8
[train]
ingredients = 1
epochs = 2
[soup]
methods = ["best", "uniform"]
"""
GENERATED = ARXIV.replace("ogb:ogbn-arxiv", "synthetic:arxiv") + "[graph.synthetic]\nscale = 0.1\n"


@pytest.fixture
def arxiv(tmp_path: Path) -> Path:
    """A folder with a job on a tiny ogbn-arxiv; the set lies in sets/."""
    layouts.ogb_tables(tmp_path / "sets", "ogbn_arxiv", "time")
    (tmp_path / "job.toml").write_text(ARXIV)
    return tmp_path


def nothing_looks_complete(folder: Path) -> None:
    assert not list((folder / "runs").rglob("*.h5"))
    assert not [path for path in (folder / "runs").rglob(".*") if path.name != ".graphs"], "something is left"


def test_a_whole_set_runs_with_standard_input_closed(arxiv: Path) -> None:
    shutil.rmtree(arxiv / "sets/ogbn_arxiv/mapping", ignore_errors=True)
    out = succeeds(command("run", "job.toml", "--offline", cwd=arxiv))
    assert "20 nodes to train, 20 to validate, 20 to test; split: public" in out
    assert not (arxiv / "sets/ogbn_arxiv/processed").exists()


def test_a_half_downloaded_set(arxiv: Path) -> None:
    (arxiv / "sets/ogbn_arxiv/RELEASE_v1.txt").unlink()
    fails(here("prepare", "job.toml", cwd=arxiv), "sets/ogbn_arxiv is not a complete version 1", "prepare again")
    nothing_looks_complete(arxiv)


@pytest.mark.parametrize("name", ["edge", "node-feat", "node-label"])
@pytest.mark.parametrize("hurt", ["corrupted", "truncated", "missing"])
def test_a_raw_file_that_is_not_right(name: str, hurt: str, arxiv: Path) -> None:
    path = arxiv / f"sets/ogbn_arxiv/raw/{name}.csv.gz"
    whole = path.read_bytes()
    if hurt == "missing":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
        path.write_bytes(flipped if hurt == "corrupted" else whole[:middle])
    fails(
        here("prepare", "job.toml", cwd=arxiv), f"raw/{name}.csv.gz is missing, truncated or damaged", "prepare again"
    )
    nothing_looks_complete(arxiv)
    path.write_bytes(whole)
    succeeds(here("prepare", "job.toml", cwd=arxiv))


def test_a_set_that_is_not_there_and_may_not_be_fetched(arxiv: Path) -> None:
    shutil.rmtree(arxiv / "sets")
    for word in ("prepare", "train", "run"):
        outcome = here(word, "job.toml", "--offline", cwd=arxiv)
        fails(outcome, "ogbn-arxiv is not in sets/ogbn_arxiv", "--offline forbids")
    nothing_looks_complete(arxiv)


@pytest.mark.parametrize("room", [64, 2000, 4600, 7000], ids=lambda room: f"{room} KiB")
def test_a_disk_that_fills_during_prepare(room: int, tmp_path: Path) -> None:
    """While features are generated, METIS's input is written, or graph.h5 is, as room grows."""
    (tmp_path / "job.toml").write_text(GENERATED)
    runs = tmp_path / "runs"
    runs.mkdir()
    with mounted(runs, "-t", "tmpfs", "-o", f"size={room}k", "tmpfs"):
        outcome = here("prepare", "job.toml", cwd=tmp_path)
        fails(outcome, "runs/.graphs/", "cannot be written: No space left on device", "same command")
        nothing_looks_complete(tmp_path)
        subprocess.run(["mount", "-o", "remount,size=64m", str(runs)], check=True)
        succeeds(here("prepare", "job.toml", cwd=tmp_path))


def test_a_graph_that_was_made_from_another_source(arxiv: Path) -> None:
    succeeds(here("prepare", "job.toml", cwd=arxiv))
    (arxiv / "other.toml").write_text(GENERATED.replace('"arxiv"', '"other"'))
    (arxiv / "runs/other").mkdir()
    shutil.copy(arxiv / "runs/arxiv/graph.h5", arxiv / "runs/other/graph.h5")
    for word in ("prepare", "train", "soup"):
        outcome = here(word, "other.toml", cwd=arxiv)
        fails(outcome, "was made with graph.source = 'ogb:ogbn-arxiv', the job says 'synthetic:arxiv'")


def test_a_set_that_has_changed_since(arxiv: Path) -> None:
    succeeds(here("prepare", "job.toml", cwd=arxiv))
    shutil.rmtree(arxiv / "sets")
    layouts.ogb_tables(arxiv / "sets", "ogbn_arxiv", "time", seed=1)
    runs.begin_to_train(jobs.load(str(arxiv / "job.toml"), [f"runs={arxiv / 'runs'}"]))
    fails(here("train", "job.toml", cwd=arxiv), "has changed since", "prepare JOB --again")


def started(folder: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gnnsoup_hpc", "prepare", "job.toml", *words],
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("names", [("a", "a"), ("a", "b")], ids=["one run", "two runs"])
def test_two_prepares_at_once(names: tuple[str, str], tmp_path: Path) -> None:
    """One works, the other says for whom it waits; both end with the same graph."""
    (tmp_path / "job.toml").write_text(GENERATED)
    first, second = (f"name={name}" for name in names)
    working = started(tmp_path, "--set", first, **plant(tmp_path, "gnnsoup_hpc.data.prepare:partition_graph"))
    wait_until((tmp_path / "reached").exists, working)
    waiting = started(tmp_path, "--set", second)
    said = list(takewhile(lambda line: "waiting for process" not in line, waiting.stdout))
    (tmp_path / "reached").unlink()
    outputs = [process.communicate(timeout=GUARD) for process in (working, waiting)]
    assert [process.returncode for process in (working, waiting)] == [0, 0], (said, outputs)
    assert "generating" in outputs[0][0]
    assert not [line for line in [*said, outputs[1][0]] if "generating" in line]
    assert ("is there already" in outputs[1][0]) is (names == ("a", "b"))
    assert len({(tmp_path / f"runs/{name}/graph.h5").stat().st_ino for name in names}) == 1


def test_a_prepare_that_is_killed_is_begun_again(tmp_path: Path) -> None:
    """While it cuts the graph, of which it has written features."""
    (tmp_path / "job.toml").write_text(GENERATED)
    process = started(tmp_path, **plant(tmp_path, "gnnsoup_hpc.data.prepare:partition_graph"))
    wait_until((tmp_path / "reached").exists, process)
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    assert not list((tmp_path / "runs").rglob("*.h5"))
    assert list((tmp_path / "runs").rglob("features"))
    succeeds(here("prepare", "job.toml", cwd=tmp_path))
    assert len(list((tmp_path / "runs/.graphs").iterdir())) == 1
    with h5py.File(tmp_path / "runs/arxiv/graph.h5") as graph:
        assert graph.attrs["complete"] == 1


def test_a_read_only_root_of_sets(arxiv: Path) -> None:
    with kit.read_only(arxiv / "sets"):
        succeeds(here("prepare", "job.toml", cwd=arxiv))
