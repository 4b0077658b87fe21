"""`gnnsoup status`: how a run stands, while ranks work at it or not."""

from __future__ import annotations

import argparse
import json

from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import make_json, show_status
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.runtime.run_dir import RunDir


def status(arguments: argparse.Namespace) -> None:
    """Print how the run stands that `arguments` name."""
    job = common.job_of_run(arguments)
    found = read_status(job, RunDir.of(job))
    print(json.dumps(make_json(found), indent=1) if arguments.json else show_status(found, arguments.all), flush=True)


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    return lambda here: status(arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which run, and how it is printed."""
    common.add_job(parser, "RUN", f"the folder of a run, or {common.JOB_HELP}")
    parser.add_argument("--all", action="store_true", help="a line for every ingredient, however many there are")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
