"""`python -m gnnsoup_hpc.report [RUN …]`: write a run's report.h5 and print its table; several runs are compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gnnsoup_hpc import cli
from gnnsoup_hpc import job as jobs
from gnnsoup_hpc.report import build
from gnnsoup_hpc.report.compare import comparison
from gnnsoup_hpc.report.rows import contents
from gnnsoup_hpc.report.table import table
from gnnsoup_hpc.run_dir import RunDir


def report(root: Path) -> None:
    """Print the table of the run in folder `root`, and write its report.h5."""
    run = contents(root)
    print(f"\n{table(run)}", flush=True)
    build.write(run)
    print(f"-> {run.run.report}", flush=True)


def report_all(roots: Sequence[Path]) -> None:
    """Report each run; where there are several, compare them too."""
    for root in roots or [RunDir.of(jobs.load()).root]:
        report(root)
    if len(roots) > 1:
        print(f"\n{comparison(roots)}", flush=True)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The argument that says which runs."""
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs (default: that of pubmed)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gnnsoup_hpc.report", description=__doc__)
    add_runs(parser)
    parsed = parser.parse_args(arguments)
    return cli.guarded(lambda here: report_all(parsed.runs))


if __name__ == "__main__":
    sys.exit(main())
