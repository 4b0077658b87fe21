"""`gnnsoup soup`: mix the job's ingredients by all its methods, and report."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    from gnnsoup_hpc.cli.flow import soup

    return lambda here: soup(common.load_job(arguments), here, arguments.again)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which job."""
    common.add_job(parser)
    common.add_memory_limit(parser)
    common.add_again(parser, "make all soups anew")
