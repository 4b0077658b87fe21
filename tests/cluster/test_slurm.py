"""The batch scripts on a real Slurm: two nodes, several ranks, signals, a lost node, chains, arrays."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.conftest import AS_ROOT, SCRIPTS, Desk
from tests.faults import kit

pytestmark = pytest.mark.mpi

TRAIN, ARRAY, SOUP, PIPELINE = (
    SCRIPTS / f"{name}.sh" for name in ("train_ingredients", "train_array", "soup", "pipeline")
)
RANKS = 3
TWO_NODES = ("--nodes=2", f"--ntasks={RANKS}", "--cpus-per-task=1")  # two ranks on one, one on the other
TOTAL = 5
MORE = ("--set", f"train.ingredients={TOTAL}", "--set", "train.checkpoint_seconds=0.001")
DONE = re.compile(r"ingredient (\d+) done")


def every_ingredient(total: int) -> dict[str, int]:
    return {f"{index:04d}": 1 for index in range(total)}


def all_ranks_train(desk: Desk) -> bool:
    """Whether ingredient 0 is done, and each rank is held in another one, of which there is a checkpoint."""
    return desk.done() == 1 and desk.checkpoints() == len(desk.gate.held()) == RANKS


def test_two_nodes_train_then_soup(desk: Desk) -> None:
    """Submitted from another directory than the checkout, and one whose name wants quotes."""
    job = desk.sbatch(*TWO_NODES, TRAIN, "tiny.toml")
    assert desk.ended(job) == ["COMPLETED"], desk.said(job)
    (log,) = desk.logs(job)
    said = log.read_text()
    assert Counter(DONE.findall(said)) == every_ingredient(3)
    assert set(re.findall(r"\[rank (\d)/3\]", said)) == {"0", "1", "2"}
    assert "runs/tiny/logs/train-" in next(desk.bowl.folder.glob("gnnsoup-train-*.out")).read_text()

    job = desk.sbatch(*TWO_NODES, SOUP, "tiny.toml")
    assert desk.ended(job) == ["COMPLETED"], desk.said(job)
    assert "3 ingredients, 3 ranks" in desk.said(job)
    assert ("mpirun -n 3" in desk.said(job)) == Path(sys.prefix, "bin", "mpirun").exists()
    assert desk.bowl.report.exists()


def test_srun_starts_ranks_that_find_each_other(desk: Desk, mpich: str) -> None:
    """By Slurm's pmi2; on one node, for MPICH's addresses of several are now and then more than it reads."""
    one_node = ("--ntasks=2", "--cpus-per-task=1")
    job = desk.sbatch(*one_node, PIPELINE, "tiny.toml", GNNSOUP_LAUNCHER="srun")
    assert desk.ended(job) == ["COMPLETED"], desk.said(job)
    assert "--mpi=pmi2" in desk.said(job)
    assert "3 ingredients, 2 ranks" in desk.said(job)


def test_a_signal_ends_with_a_requeue_that_goes_on(desk: Desk) -> None:
    job = desk.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE, **desk.gate.variables())
    desk.until(lambda: all_ranks_train(desk), job)
    desk.slurm.command("scancel", "--signal=USR1", job)
    desk.until(lambda: "requeued" in desk.said(job), job)
    finished = {path.name: kit.digest(path) for path in desk.bowl.ingredient(0).parent.glob("????.h5")}
    assert list(finished) == ["0000.h5"]
    desk.gate.open()
    assert desk.ended(job) == ["COMPLETED"], desk.said(job)
    (log,) = desk.logs(job)
    said = log.read_text()
    assert "stopped by SIGUSR1" in said
    assert len(re.findall(r"ingredient \d+ goes on after epoch \d+", said)) == RANKS, said
    assert "Restarts=1" in desk.shown(job)
    assert Counter(DONE.findall(said)) == every_ingredient(TOTAL)
    assert {name: kit.digest(desk.bowl.root / "ingredients" / name) for name in finished} == finished
    assert desk.checkpoints() == 0


def test_a_cancelled_job_is_not_requeued(desk: Desk) -> None:
    """Every rank leaves a checkpoint all the same."""
    job = desk.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE[:2], **desk.gate.variables())
    desk.until(lambda: len(desk.gate.held()) == RANKS, job)
    desk.slurm.command("scancel", job)
    assert desk.ended(job) == ["CANCELLED"]
    desk.until(lambda: "to go on: cd " in desk.said(job), job)
    assert "requeued" not in desk.said(job).replace("is not requeued", "")
    assert desk.checkpoints() == RANKS


def test_an_error_of_the_job_is_told_where_sbatch_puts_it(desk: Desk) -> None:
    job = desk.sbatch("--ntasks=2", "--cpus-per-task=1", TRAIN, "tiny.toml", "--set", "train.epoch=3")
    assert desk.ended(job) == ["FAILED"]
    assert "ExitCode=2:0" in desk.shown(job)
    assert "'train.epochs'" in desk.said(job)
    job = desk.sbatch("--ntasks=1", TRAIN, "tiny.toml", GNNSOUP_LAUNCHER="mpirun", GNNSOUP_MPIRUN="bin/mpirun")
    assert desk.ended(job) == ["FAILED"]
    assert "ExitCode=2:0" in desk.shown(job)
    assert "GNNSOUP_MPIRUN=bin/mpirun: there is no such program here" in desk.said(job)


def test_a_lost_node_stops_no_other(desk: Desk) -> None:
    job = desk.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE, **desk.gate.variables())
    desk.until(lambda: all_ranks_train(desk), job)
    try:
        desk.slurm.lose_node("n2")
        desk.gate.open()
        assert desk.ended(job) == ["COMPLETED"], desk.said(job)
        assert desk.done() == TOTAL
        desk.bowl.ingredient(1).unlink()  # and what else were missing, the same command brings
        job = desk.sbatch("--ntasks=1", "--cpus-per-task=1", TRAIN, "tiny.toml", *MORE)
        assert desk.ended(job) == ["COMPLETED"], desk.said(job)
        assert DONE.findall(desk.said(job)) == ["0001"]
    finally:
        desk.slurm.start_node("n2")


def test_the_pipeline_is_a_chain_of_three_jobs(desk: Desk) -> None:
    options = ("--cpus-per-task=1", "--ntasks=2", "--")
    said = desk.slurm.command(
        "bash",
        PIPELINE,
        *options,
        "tiny.toml",
        cwd=desk.bowl.folder,
        GNNSOUP_PYTHON=desk.python,
        GNNSOUP_PREPARE_OPTIONS="--ntasks=1",
        GNNSOUP_TRAIN_OPTIONS="--nodes=2",
    )
    ids = dict(re.findall(r"^(\w+): job (\d+)$", said, re.MULTILINE))
    assert list(ids) == ["prepare", "train", "soup"]
    assert desk.ended(ids["soup"]) == ["COMPLETED"], "".join(desk.said(job) for job in ids.values())
    assert "NumNodes=2" in desk.shown(ids["train"])
    assert "prepare: reading" in desk.said(ids["prepare"])
    assert "prepare: reading" not in desk.said(ids["train"])
    assert desk.bowl.report.exists()


def test_a_chain_ends_with_the_first_job_that_fails(desk: Desk) -> None:
    said = desk.slurm.command("bash", PIPELINE, "none.toml", cwd=desk.bowl.folder, GNNSOUP_PYTHON=desk.python)
    prepare, train, soup = re.findall(r"job (\d+)$", said, re.MULTILINE)
    assert desk.ended(prepare) == ["FAILED"]
    assert (desk.ended(train), desk.ended(soup)) == (["CANCELLED"], ["CANCELLED"])


def test_an_array_and_a_job_of_ranks_share_a_run(desk: Desk) -> None:
    held = desk.gate.variables()
    ranks = desk.sbatch("--nodes=2", "--ntasks=2", "--cpus-per-task=1", TRAIN, "tiny.toml", *MORE, **held)
    array = desk.sbatch("--array=0-1", "--cpus-per-task=1", ARRAY, "tiny.toml", *MORE, **held)
    desk.until(lambda: len(set(desk.gate.held().values())) == 4, array)  # each has a share
    desk.gate.open()
    assert desk.ended(array) == ["COMPLETED"] * 2, desk.said(array)
    assert desk.ended(ranks) == ["COMPLETED"], desk.said(ranks)
    assert len(desk.logs(array)) == 2
    said = desk.said(ranks) + desk.said(array)
    assert Counter(DONE.findall(said)) == every_ingredient(TOTAL)


@pytest.mark.parametrize("kind", ["mpich", "open_mpi"])
def test_mpirun_in_an_allocation(desk: Desk, kind: str, request: pytest.FixtureRequest) -> None:
    """A signal reaches the ranks of every node, and the requeued job goes on."""
    launcher = {"GNNSOUP_LAUNCHER": "mpirun", "GNNSOUP_MPIRUN": request.getfixturevalue(kind)} | AS_ROOT
    if kind == "open_mpi":
        launcher["GNNSOUP_PYTHON"] = request.getfixturevalue("system_python")
        # Two nodes on one machine would name their ranks' shared memory alike, and write into each other's.
        launcher["OMPI_MCA_btl"] = "^vader"
    job = desk.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE, **launcher, **desk.gate.variables())
    desk.until(lambda: all_ranks_train(desk), job)
    desk.slurm.command("scancel", "--batch", "--signal=USR1", job)
    desk.until(lambda: "requeued" in desk.said(job), job)
    desk.gate.open()
    assert desk.ended(job) == ["COMPLETED"], desk.said(job)
    said = desk.said(job)
    assert said.count("goes on after epoch") == RANKS
    assert Counter(DONE.findall(said)) == every_ingredient(TOTAL)
    job = desk.sbatch(*TWO_NODES, SOUP, "tiny.toml", *MORE[:2], "--set", "soup.methods=['gis']", **launcher)
    assert desk.ended(job) == ["COMPLETED"], desk.said(job)
    assert "mpirun" in desk.said(job)
    assert "3 ranks" in desk.said(job)


def test_copied_scripts_find_what_they_share(desk: Desk, tmp_path: Path) -> None:
    """A copy of one script alone wants to be told where the checkout is."""
    alone = tmp_path / "mine" / TRAIN.name
    alone.parent.mkdir()
    shutil.copy(TRAIN, alone)
    job = desk.sbatch("--ntasks=1", alone, "tiny.toml")
    assert desk.ended(job) == ["FAILED"]
    assert "set GNNSOUP_HOME" in desk.said(job)
    job = desk.sbatch("--ntasks=1", alone, "tiny.toml", GNNSOUP_HOME=str(SCRIPTS.parent))
    assert desk.ended(job) == ["COMPLETED"], desk.said(job)


def test_the_scripts_have_no_fault_that_shellcheck_knows() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here: `make cluster-tools` installs it")
    words = ["shellcheck", "-x", *sorted(SCRIPTS.glob("*.sh"))]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
