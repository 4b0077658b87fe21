"""`gnnsoup job`: print the resolved job, every field with what it means."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli.common import load_job
from gnnsoup_hpc.config import loading
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Print the job, or the folder of its run's logs alone."""
    job = load_job(arguments)
    print(RunDir.of(job).logs if arguments.logs else loading.explain(job))
