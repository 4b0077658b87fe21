"""`gnnsoup status`: how a run stands, while ranks work at it or not."""

from __future__ import annotations

import argparse
import json

from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import make_json, show_status
from gnnsoup_hpc.cli.common import job_of_run
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Print how the run stands."""
    job = job_of_run(arguments)
    found = read_status(job, RunDir.of(job))
    print(json.dumps(make_json(found), indent=1) if arguments.json else show_status(found, arguments.all), flush=True)
