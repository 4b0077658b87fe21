"""`[mpirun -n P] python -m gnnsoup_hpc.train [JOB]`: train the job's ingredients."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gnnsoup_hpc import cli, limits, ranks
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.limits import Limit
from gnnsoup_hpc.prepare import is_made, prepare
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.train.work import train_all


def train(job: Job, here: Place, offline: bool = False, souping: bool = False) -> None:
    """Prepare the graph if it is not there yet, and train what is missing; `souping` says that soups are to follow."""
    log = Log(here.prefix, stop=here.stop)
    device = ranks.claim_machine(job.machine, here)
    log.say(f"train: {ranks.mapping(here, device)}")
    if not is_made(job):
        limits.refuse_before_graph(Limit.of(job, here))
    prepare(job, here, log, offline=offline)
    train_all(job, here, device, log, souping)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gnnsoup_hpc.train", description=__doc__, epilog=cli.EXIT_CODES)
    cli.add_job(parser)
    cli.add_memory_limit(parser)
    cli.add_offline(parser)
    parsed = parser.parse_args(arguments)
    return cli.guarded(lambda here: train(cli.load_job(parsed), here, parsed.offline))


if __name__ == "__main__":
    sys.exit(main())
