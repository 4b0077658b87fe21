"""`gnnsoup status`: how a run stands, while ranks work at it or not."""

from __future__ import annotations

import argparse
import json

from gnnsoup_hpc import cli
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.status.look import look
from gnnsoup_hpc.status.table import as_json, table


def status(arguments: argparse.Namespace) -> None:
    """Print how the run stands that the arguments of `add_status` name."""
    job = cli.job_of_run(arguments)
    found = look(job, RunDir.of(job))
    print(json.dumps(as_json(found), indent=1) if arguments.json else table(found, arguments.all), flush=True)


def add_status(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which run, and how it is told."""
    cli.add_job(parser, "RUN", f"the folder of a run, or {cli.JOB_HELP}")
    parser.add_argument("--all", action="store_true", help="a line for every ingredient, however many there are")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
