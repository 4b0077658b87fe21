"""`gnnsoup job`: print the resolved job, every field with what it means."""

from __future__ import annotations

import argparse

from gnnsoup_hpc import config as jobs
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""

    def command(here: RankInfo) -> None:
        job = common.load_job(arguments)
        print(RunDir.of(job).logs if arguments.logs else jobs.explain(job))

    return command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which job."""
    common.add_job(parser)
    common.add_memory_limit(parser)
    parser.add_argument("--logs", action="store_true", help="print the folder of the run's logs alone")
