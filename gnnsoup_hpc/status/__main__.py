"""`python -m gnnsoup_hpc.status [RUN]`: how a run stands, while ranks work at it or not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gnnsoup_hpc.status", description=__doc__)
    add_status(parser)
    parsed = parser.parse_args(arguments)
    return cli.guarded(lambda here: status(parsed))


if __name__ == "__main__":
    sys.exit(main())
