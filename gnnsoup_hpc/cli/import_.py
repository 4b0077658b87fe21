"""`gnnsoup import`: checkpoints that are there become the ingredients of a job's run."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli.common import load_job
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.train.imports import import_all


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Import files. Rank 0 does all of it."""
    log = Log(here.prefix, stop=here.stop)
    import_all(load_job(arguments), arguments.files, arguments.key, here, log, arguments.offline)
