"""`gnnsoup import`: checkpoints that are there become the ingredients of a job's run."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli.common import load_job
from gnnsoup_hpc.data.prepare import is_made, prepare
from gnnsoup_hpc.memory import limits
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.train.imports import find_files, import_files


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Prepare the job's graph if it is not there yet, and import files. Rank 0 does all of it."""
    job = load_job(arguments)
    if here.rank > 0:
        return
    log, paths = Log(here.prefix, stop=here.stop), find_files(arguments.files)
    device = launch.claim_machine(job.machine, here)
    if not is_made(job):
        limits.refuse_before_graph(limits.Limit.of(job, here))
    prepare(job, here, log, offline=arguments.offline)
    import_files(job, paths, arguments.key, here, device, log)
