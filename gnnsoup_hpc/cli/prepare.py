"""`gnnsoup prepare`: read the graph, cut it into parts, write graph.h5."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli.common import load_job
from gnnsoup_hpc.data.prepare import note_job, prepare
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Prepare the job's graph."""
    job = load_job(arguments)
    prepare(job, here, Log(here.prefix, stop=here.stop), arguments.again, arguments.offline)
    if here.rank == 0:
        note_job(job)
