"""`gnnsoup run`: prepare, train, soup, report."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.cli.train import load_train
from gnnsoup_hpc.runtime.launch import RankInfo


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    from gnnsoup_hpc.cli.flow import soup

    train = load_train()

    def command(here: RankInfo) -> None:
        job = common.load_job(arguments)
        train(job, here, arguments.offline, True)
        soup(job, here, arguments.again)

    return command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which job."""
    common.add_job(parser)
    common.add_offline(parser)
    common.add_memory_limit(parser)
    common.add_again(parser, "make all soups anew")
