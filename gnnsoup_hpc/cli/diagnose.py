"""`gnnsoup diagnose`: do ingredients lie in one basin, and what to do if not."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    from gnnsoup_hpc.cli.flow import diagnose

    return lambda here: diagnose(common.job_of_run(arguments), here, arguments.again)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which run."""
    common.add_job(parser, "RUN", f"the folder of a run, or {common.JOB_HELP}")
    common.add_memory_limit(parser)
    common.add_again(parser, "measure anew, also where the diagnosis is there")
