"""`python -m gnnsoup_hpc.report [RUN]`: write a run's report.h5 and print its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gnnsoup_hpc import cli
from gnnsoup_hpc import job as jobs
from gnnsoup_hpc.report import build
from gnnsoup_hpc.report.rows import contents
from gnnsoup_hpc.report.table import table
from gnnsoup_hpc.run_dir import RunDir


def report(root: Path) -> None:
    """Write report.h5 of the run in folder `root`, and print the table."""
    run = contents(root)
    build.write(run)
    print(f"\n{table(run)}\n-> {run.run.report}", flush=True)


def add_run(parser: argparse.ArgumentParser) -> None:
    """The argument that says which run."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="folder of a run (default: that of pubmed)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gnnsoup_hpc.report", description=__doc__)
    add_run(parser)
    parsed = parser.parse_args(arguments)
    return cli.guarded(lambda here: report(parsed.run or RunDir.of(jobs.load()).root))


if __name__ == "__main__":
    sys.exit(main())
