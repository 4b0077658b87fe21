"""`gnnsoup diagnose`: do ingredients lie in one basin, and what to do if not."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import list_midpoints
from gnnsoup_hpc.analysis.diagnosis.runner import diagnose
from gnnsoup_hpc.cli.common import job_of_souped_run
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.selection import select_sound
from gnnsoup_hpc.soup.start import open_mixtures


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Diagnose the run of a job, and print. Rank-collective, as souping is."""
    asked = job_of_souped_run(arguments)
    # Metrics alone are computed, so only what they need is asked of the memory limit.
    soup = asked.soup.model_copy(update={"methods": ("best",), "precision": "float32"})
    job = asked.model_copy(update={"soup": soup})
    comm, device = launch.connect(here), launch.claim_machine(job.machine, here)
    log, run = Log(here.prefix, quiet=here.rank > 0, stop=here.stop), RunDir.of(job)
    with open_mixtures(job, here, comm, device, log, select_sound) as (_, selection, mixtures):
        found, task = diagnose(asked, selection, mixtures, log, arguments.again), mixtures.evaluator.task
    if here.rank == 0:
        lines = [*list_midpoints(found, task), ""] if found.variants else []
        print("\n".join(["", *lines, *verdict(found, asked, task), f"-> {run.diagnosis}"]), flush=True)
    comm.bcast(None)
