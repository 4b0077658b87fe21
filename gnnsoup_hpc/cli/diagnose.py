"""`gnnsoup diagnose`: do ingredients lie in one basin, and what to do if not."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import list_midpoints
from gnnsoup_hpc.analysis.diagnosis.runner import diagnose, select_sound
from gnnsoup_hpc.cli.common import job_of_run
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.soup.start import open_mixtures


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Diagnose the run of a job, and print. Rank-collective, as souping is."""
    asked = job_of_run(arguments)
    # Metrics alone are told, so only what they need is asked of the memory limit.
    soup = asked.soup.model_copy(update={"methods": ("best",), "precision": "float32"})
    job = asked.model_copy(update={"soup": soup})
    comm, device = launch.connect(here), launch.claim_machine(job.machine, here)
    log, run = Log(here.prefix, quiet=here.rank > 0, stop=here.stop), RunDir.of(job)

    def select(job: Job, model: Model, graph: GraphFile) -> tuple[Job, Selection]:
        return job, select_sound(job, run, model)

    with open_mixtures(job, here, comm, device, log, select) as start:
        found = diagnose(asked, start.selection, start.mixtures, log, arguments.again)
    if here.rank == 0:
        lines = [*list_midpoints(found), ""] if found.lineups else []
        print("\n".join(["", *lines, *verdict(found, asked), f"-> {run.diagnosis}"]), flush=True)
    comm.bcast(None)
