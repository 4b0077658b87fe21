"""The batch scripts on a real Slurm: two nodes, several ranks, signals, a lost node, chains, arrays."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gnnsoup_hpc.__main__ import main
from tests.cluster.conftest import AS_ROOT, SCRIPTS, Cluster
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


def all_ranks_train(cluster: Cluster) -> bool:
    """Whether ingredient 0 is done, and each rank is held in another one, of which there is a checkpoint."""
    return cluster.done() == 1 and cluster.checkpoints() == len(cluster.gate.held()) == RANKS


def test_two_nodes_train_then_soup(cluster: Cluster) -> None:
    """Submitted from another directory than the checkout, and one whose name wants quotes."""
    job = cluster.sbatch(*TWO_NODES, TRAIN, "tiny.toml")
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    (log,) = cluster.logs(job)
    said = log.read_text()
    assert Counter(DONE.findall(said)) == every_ingredient(3)
    assert set(re.findall(r"\[rank (\d)/3\]", said)) == {"0", "1", "2"}
    assert "runs/tiny/logs/train-" in next(cluster.workdir.folder.glob("gnnsoup-train-*.out")).read_text()

    job = cluster.sbatch(*TWO_NODES, SOUP, "tiny.toml")
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    assert "3 ingredients, 3 ranks" in cluster.said(job)
    assert ("mpirun -n 3" in cluster.said(job)) == Path(sys.prefix, "bin", "mpirun").exists()
    assert cluster.workdir.report.exists()


def test_srun_starts_ranks_that_find_each_other(cluster: Cluster, mpich: str) -> None:
    """By Slurm's pmi2; on one node, for MPICH's addresses of several are now and then more than it reads."""
    one_node = ("--ntasks=2", "--cpus-per-task=1")
    job = cluster.sbatch(*one_node, PIPELINE, "tiny.toml", GNNSOUP_LAUNCHER="srun")
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    assert "--mpi=pmi2" in cluster.said(job)
    assert "3 ingredients, 2 ranks" in cluster.said(job)


def test_a_signal_ends_with_a_requeue_that_goes_on(cluster: Cluster) -> None:
    job = cluster.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE, **cluster.gate.variables())
    cluster.until(lambda: all_ranks_train(cluster), job)
    cluster.slurm.command("scancel", "--signal=USR1", job)
    cluster.until(lambda: "requeued" in cluster.said(job), job)
    finished = {path.name: kit.digest(path) for path in cluster.workdir.ingredient(0).parent.glob("????.h5")}
    assert list(finished) == ["0000.h5"]
    cluster.gate.open()
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    (log,) = cluster.logs(job)
    said = log.read_text()
    assert "stopped by SIGUSR1" in said
    assert len(re.findall(r"ingredient \d+ goes on after epoch \d+", said)) == RANKS, said
    assert "Restarts=1" in cluster.shown(job)
    assert Counter(DONE.findall(said)) == every_ingredient(TOTAL)
    assert {name: kit.digest(cluster.workdir.root / "ingredients" / name) for name in finished} == finished
    assert cluster.checkpoints() == 0


def test_a_cancelled_job_is_not_requeued(cluster: Cluster) -> None:
    """Every rank leaves a checkpoint all the same."""
    job = cluster.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE[:2], **cluster.gate.variables())
    cluster.until(lambda: len(cluster.gate.held()) == RANKS, job)
    cluster.slurm.command("scancel", job)
    assert cluster.ended(job) == ["CANCELLED"]
    cluster.until(lambda: "to go on: cd " in cluster.said(job), job)
    assert "requeued" not in cluster.said(job).replace("is not requeued", "")
    assert cluster.checkpoints() == RANKS


def test_an_error_of_the_job_is_told_where_sbatch_puts_it(cluster: Cluster) -> None:
    job = cluster.sbatch("--ntasks=2", "--cpus-per-task=1", TRAIN, "tiny.toml", "--set", "train.epoch=3")
    assert cluster.ended(job) == ["FAILED"]
    assert "ExitCode=2:0" in cluster.shown(job)
    assert "'train.epochs'" in cluster.said(job)
    job = cluster.sbatch("--ntasks=1", TRAIN, "tiny.toml", GNNSOUP_LAUNCHER="mpirun", GNNSOUP_MPIRUN="bin/mpirun")
    assert cluster.ended(job) == ["FAILED"]
    assert "ExitCode=2:0" in cluster.shown(job)
    assert "GNNSOUP_MPIRUN=bin/mpirun: there is no such program here" in cluster.said(job)


def test_a_lost_node_stops_no_other(cluster: Cluster) -> None:
    job = cluster.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE, **cluster.gate.variables())
    cluster.until(lambda: all_ranks_train(cluster), job)
    try:
        cluster.slurm.lose_node("n2")
        cluster.gate.open()
        assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
        assert cluster.done() == TOTAL
        cluster.workdir.ingredient(1).unlink()  # and what else were missing, the same command brings
        job = cluster.sbatch("--ntasks=1", "--cpus-per-task=1", TRAIN, "tiny.toml", *MORE)
        assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
        assert DONE.findall(cluster.said(job)) == ["0001"]
    finally:
        cluster.slurm.start_node("n2")


def test_the_pipeline_is_a_chain_of_three_jobs(cluster: Cluster) -> None:
    options = ("--cpus-per-task=1", "--nodes=2", "--ntasks-per-node=1", "--")
    said = cluster.slurm.command(
        "bash",
        PIPELINE,
        *options,
        "tiny.toml",
        cwd=cluster.workdir.folder,
        GNNSOUP_PYTHON=cluster.python,
        GNNSOUP_TRAIN_OPTIONS="--ntasks-per-node=2",
    )
    ids = dict(re.findall(r"^(\w+): job (\d+)$", said, re.MULTILINE))
    assert list(ids) == ["prepare", "train", "soup"]
    assert cluster.ended(ids["soup"]) == ["COMPLETED"], "".join(cluster.said(job) for job in ids.values())
    assert "NumNodes=2 NumCPUs=4 NumTasks=4" in cluster.shown(ids["train"])
    assert "\nprepare: reading" in cluster.said(ids["prepare"])  # by one process, of no rank
    assert "prepare: reading" not in cluster.said(ids["train"])
    assert cluster.workdir.report.exists()


def test_a_chain_ends_with_the_first_job_that_fails(cluster: Cluster) -> None:
    said = cluster.slurm.command(
        "bash", PIPELINE, "none.toml", cwd=cluster.workdir.folder, GNNSOUP_PYTHON=cluster.python
    )
    prepare, train, soup = re.findall(r"job (\d+)$", said, re.MULTILINE)
    asked = [re.findall(r"NumTasks=(\d+)", cluster.shown(job)) for job in (prepare, train, soup)]
    assert asked == [["1"], ["8"], ["4"]]  # where nobody says how many
    assert cluster.ended(prepare) == ["FAILED"]
    assert (cluster.ended(train), cluster.ended(soup)) == (["CANCELLED"], ["CANCELLED"])


def test_an_array_and_a_job_of_ranks_share_a_run(cluster: Cluster) -> None:
    held = cluster.gate.variables()
    ranks = cluster.sbatch("--nodes=2", "--ntasks=2", "--cpus-per-task=1", TRAIN, "tiny.toml", *MORE, **held)
    array = cluster.sbatch("--array=0-1", "--cpus-per-task=1", ARRAY, "tiny.toml", *MORE, **held)
    cluster.until(lambda: len(set(cluster.gate.held().values())) == 4, array)  # each has a share
    cluster.gate.open()
    assert cluster.ended(array) == ["COMPLETED"] * 2, cluster.said(array)
    assert cluster.ended(ranks) == ["COMPLETED"], cluster.said(ranks)
    assert len(cluster.logs(array)) == 2
    said = cluster.said(ranks) + cluster.said(array)
    assert Counter(DONE.findall(said)) == every_ingredient(TOTAL)


@pytest.mark.parametrize("kind", ["mpich", "open_mpi"])
def test_mpirun_in_an_allocation(cluster: Cluster, kind: str, request: pytest.FixtureRequest) -> None:
    """A signal reaches the ranks of every node, and the requeued job goes on."""
    launcher = {"GNNSOUP_LAUNCHER": "mpirun", "GNNSOUP_MPIRUN": request.getfixturevalue(kind)} | AS_ROOT
    if kind == "open_mpi":
        launcher["GNNSOUP_PYTHON"] = request.getfixturevalue("system_python")
        # Two nodes on one machine would name their ranks' shared memory alike, and write into each other's.
        launcher["OMPI_MCA_btl"] = "^vader"
    job = cluster.sbatch(*TWO_NODES, TRAIN, "tiny.toml", *MORE, **launcher, **cluster.gate.variables())
    cluster.until(lambda: all_ranks_train(cluster), job)
    cluster.slurm.command("scancel", "--batch", "--signal=USR1", job)
    cluster.until(lambda: "requeued" in cluster.said(job), job)
    cluster.gate.open()
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    said = cluster.said(job)
    assert said.count("goes on after epoch") == RANKS
    assert Counter(DONE.findall(said)) == every_ingredient(TOTAL)
    job = cluster.sbatch(*TWO_NODES, SOUP, "tiny.toml", *MORE[:2], "--set", "soup.methods=['gis']", **launcher)
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    assert "mpirun" in cluster.said(job)
    assert "3 ranks" in cluster.said(job)


def test_written_scripts_need_nothing_of_who_submits(cluster: Cluster, tmp_path: Path) -> None:
    """Python, variables and modules are in their environment.sh, and ranks have them under --export=NONE too."""
    folder = tmp_path / "mine, it's written"
    assert main(["slurm", str(folder)]) == 0
    settings = f"export OMP_NUM_THREADS=3 PYTHONPATH={shlex.quote(str(SCRIPTS.parent))}"
    with (folder / "environment.sh").open("a") as file:
        file.write(f"{settings}\n[[ -z $NOT_SET_AS_IN_SCRIPTS_OF_MODULES ]]\n")
    words = ("--export=NONE", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    job = cluster.slurm.command(
        "sbatch",
        "--parsable",
        *words,
        folder / TRAIN.name,
        *("tiny.toml", "--set", "machine.threads=0"),
        cwd=cluster.workdir.folder,
    ).strip()
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    assert set(re.findall(r"\[rank (\d)/2\] train: on .* 3 threads \(OMP_NUM_THREADS\)", cluster.said(job))) == {
        "0",
        "1",
    }
    with (folder / "environment.sh").open("a") as file:
        file.write("module load no-such-module\n")
    job = cluster.sbatch("--ntasks=1", folder / TRAIN.name, "tiny.toml")
    assert cluster.ended(job) == ["FAILED"]
    assert f"{folder / 'environment.sh'}, line " in cluster.said(job)
    assert "ended with 127: " in cluster.said(job)


def test_copied_scripts_find_what_they_share(cluster: Cluster, tmp_path: Path) -> None:
    """A copy of one script alone wants to be told where the checkout is."""
    alone = tmp_path / "mine" / TRAIN.name
    alone.parent.mkdir()
    shutil.copy(TRAIN, alone)
    job = cluster.sbatch("--ntasks=1", alone, "tiny.toml")
    assert cluster.ended(job) == ["FAILED"]
    assert "set GNNSOUP_HOME" in cluster.said(job)
    jobs = [cluster.sbatch("--ntasks=1", alone, "tiny.toml", GNNSOUP_HOME=str(s)) for s in (SCRIPTS, SCRIPTS.parent)]
    assert [cluster.ended(job) for job in jobs] == [["COMPLETED"]] * 2, "".join(map(cluster.said, jobs))


def test_the_scripts_have_no_fault_that_shellcheck_knows() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here: `make cluster-tools` installs it")
    words = ["shellcheck", "-x", *sorted(SCRIPTS.glob("*.sh"))]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
