"""The forms in which people ask for ranks and GPUs, on a real Slurm: who would run where. A stub stands for Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.conftest import SCRIPTS, Cluster

STUB = """\
#!/bin/bash
case $* in
  "-m gnnsoup_hpc job"*) echo runs/tiny/logs ;;
  -c*) echo "MPICH Version: 0" ;;
  *) echo "rank on $SLURMD_NODENAME, GPUs ${CUDA_VISIBLE_DEVICES:-none}, ${SLURM_GPUS_PER_TASK:-0} its own" ;;
esac
"""
RANK = re.compile(r"^rank on (\w+), GPUs (\S+), (\d) its own$", re.MULTILINE)
ONE, TWO, FOUR = ["1 rank"], ["1 rank"] * 2, ["2 ranks"] * 2
FORMS = {  # script and options: ranks of each node, how many GPUs they see together, how many each
    "train_ingredients": ONE,
    "train_ingredients --ntasks=1": ONE,
    "train_ingredients --cpus-per-task=2 --exclusive": ["4 ranks"],
    "train_ingredients --cpus-per-task=1 --ntasks=16": ["8 ranks"] * 2,
    "train_ingredients --nodes=2": TWO,
    "train_ingredients --nodes=2 --ntasks=2": TWO,
    "train_ingredients --nodes=2 --ntasks-per-node=2": FOUR,
    "train_ingredients --cpus-per-task=1 --nodes=2 --ntasks-per-node=4 --gpus-per-task=1": ["4 ranks: 4 GPUs, 1 each"]
    * 2,
    "train_ingredients --nodes=2 --ntasks-per-node=2 --gpus-per-node=4": ["2 ranks: 4 GPUs, 4 for all"] * 2,
    "train_ingredients --cpus-per-task=1 --gpus=3 --gpus-per-task=1": ["3 ranks: 3 GPUs, 1 each"],
    "train_array --nodelist=n1 --array=0-1": ["2 ranks"],
    "soup": ONE,
    "soup --nodes=2 --ntasks-per-node=2": FOUR,
    "soup --nodes=2 --exclusive": FOUR,
    # Ranks of mpirun take one each of those that their node has for all of them.
    "soup --cpus-per-task=1 --nodes=2 --ntasks=3 --gpus-per-task=1": [
        "1 rank: 1 GPUs, 1 for all",
        "2 ranks: 2 GPUs, 2 for all",
    ],
    "pipeline --nodes=2 --ntasks-per-node=2": FOUR,
    "prepare": ONE,
    "prepare --nodes=2 --ntasks-per-node=2": ONE,
}


def describe(said: str) -> list[str]:
    """The nodes on which ranks were, as FORMS has them, those with few first."""
    ranks = [(node, () if gpus == "none" else gpus.split(","), own) for node, gpus, own in RANK.findall(said)]
    nodes = []
    for name in {node for node, _, _ in ranks}:
        sees = [gpus for node, gpus, _ in ranks if node == name]
        (own,) = {own for node, _, own in ranks if node == name}
        text = f"{len(sees)} rank{'s' * (len(sees) > 1)}"
        if any(sees):
            (each,) = {len(gpus) for gpus in sees}
            together = len({gpu for gpus in sees for gpu in gpus})
            text += f": {together} GPUs, {each} {'each' if own == '1' else 'for all'}"
        nodes.append(text)
    return sorted(nodes)


@pytest.fixture
def stub(tmp_path: Path, mpich: str) -> dict[str, str]:
    """Variables by which the scripts take the stub for Python."""
    path = tmp_path / "stub"
    path.write_text(STUB)
    path.chmod(0o755)
    return {"GNNSOUP_PYTHON": str(path), "GNNSOUP_MPIRUN": mpich}


def test_ranks_are_asked_for_in_any_form(cluster: Cluster, stub: dict[str, str]) -> None:
    jobs = {}
    for form in FORMS:
        script, *options = form.split()
        words = (*options, SCRIPTS / f"{script}.sh", "tiny.toml")
        jobs[form] = cluster.sbatch(*words, **stub)
    assert {state for job in jobs.values() for state in cluster.ended(job)} == {"COMPLETED"}
    said = {form: cluster.said(job) for form, job in jobs.items()}
    assert {form: describe(said[form]) for form in FORMS} == FORMS
    told = {form for form in FORMS if "no number of tasks was given" in said[form]}
    assert told == {form for form in FORMS if not re.search(r"--ntasks|--gpus=|array|prepare", form)}


def test_ranks_of_mpirun_see_the_gpus_of_their_node(cluster: Cluster, stub: dict[str, str]) -> None:
    """Where Slurm gave out other ones on the first node."""
    other = cluster.sbatch("--nodelist=n2", "--gpus-per-node=1", "--output=/dev/null", "--wrap=sleep 600")
    cluster.until(lambda: "JobState=RUNNING" in cluster.shown(other), other)
    words = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2", SCRIPTS / "soup.sh", "tiny.toml")
    job = cluster.sbatch(*words, **stub)
    assert cluster.ended(job) == ["COMPLETED"], cluster.said(job)
    cluster.slurm.command("scancel", other)
    found = {node: gpus for node, gpus, _ in RANK.findall(cluster.said(job))}
    assert found == {"n1": "0,1", "n2": "1,2"}
