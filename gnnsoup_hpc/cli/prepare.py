"""`gnnsoup prepare`: read the graph, cut it into parts, write graph.h5."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.runtime.launch import RankInfo


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    from gnnsoup_hpc.data.prepare import note_job, prepare
    from gnnsoup_hpc.runtime.progress import Log

    def command(here: RankInfo) -> None:
        job = common.load_job(arguments)
        prepare(job, here, Log(here.prefix, stop=here.stop), arguments.again, arguments.offline)
        if here.rank == 0:
            note_job(job)

    return command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which graph."""
    common.add_job(parser)
    common.add_offline(parser)
    common.add_again(parser, "cut the graph anew")
