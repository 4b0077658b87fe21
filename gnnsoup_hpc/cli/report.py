"""`gnnsoup report`: write a run's report.h5 and print its table; several runs are compared."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

from gnnsoup_hpc.analysis.report import build
from gnnsoup_hpc.analysis.report.compare import compare_runs
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def report(root: Path, must_write: bool = True, quiet: bool = False) -> None:
    """Write the report.h5 of the run in folder `root`, and print its table, whether it could be written or not.

    quiet: nothing is printed.
    Raises: RunError where it could not; unless `must_write`, a run that may only be read is no error, but a line.
    """
    run = read_contents(root)
    if quiet:
        build.write(run)
        return
    try:
        build.write(run)
    except RunError as error:
        print(f"\n{show_run(run)}", flush=True)
        cause = error.__cause__
        if must_write or not (isinstance(cause, OSError) and cause.errno in _READ_ONLY):
            raise
        print(f"{run.run.report} is not written: the run may only be read here ({cause.strerror})", flush=True)
        return
    print(f"\n{show_run(run)}\n-> {run.run.report}", flush=True)


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Report each run; where there are several, compare them too."""
    roots = arguments.runs or [RunDir.of(load_job()).root]
    for root in roots:
        report(root, must_write=False)
    if len(roots) > 1:
        print(f"\n{compare_runs([read_contents(root) for root in roots])}", flush=True)
