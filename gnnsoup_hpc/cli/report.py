"""`gnnsoup report`: write a run's report.h5 and print its table; several runs are compared."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gnnsoup_hpc.analysis.report import build
from gnnsoup_hpc.analysis.report.compare import compare_runs
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.grid import read_grid, show_grid, write_grid
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.cli.common import say_overruled
from gnnsoup_hpc.config import loading
from gnnsoup_hpc.errors import JobError, MissingJobError, RunError
from gnnsoup_hpc.models.jobs import load_job, load_job_of_run
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils.paths import expand_home

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def report(root: Path, must_write: bool = True, quiet: bool = False) -> None:
    """Write the report.h5 of the run in folder `root`, and print its table, whether it could be written or not.

    quiet: nothing is printed.
    Raises: RunError where it could not; unless `must_write`, a run that may only be read is no error, but a line.
    """
    write, show = _read(root)
    path = RunDir(root).report
    if quiet:
        write()
        return
    try:
        write()
    except RunError as error:
        print(f"\n{show()}", flush=True)
        cause = error.__cause__
        if must_write or not (isinstance(cause, OSError) and cause.errno in _READ_ONLY):
            raise
        print(f"{path} is not written: the run may only be read here ({cause.strerror})", flush=True)
        return
    print(f"\n{show()}\n-> {path}", flush=True)


def _read(root: Path) -> tuple[Callable[[], None], Callable[[], str]]:
    """What writes the report of a run, and what gives its text."""
    path = RunDir(root).job
    if path.is_file() and loading.load(str(path)).sweep.trains:
        swept = read_grid(load_job_of_run(root))
        return partial(write_grid, swept), partial(show_grid, swept)
    found = read_contents(root)
    return partial(build.write, found), partial(show_run, found)


def _find_root(text: str, overrides: Sequence[str]) -> Path:
    """The folder of a run: the one that is named, or that of the job. Raises: JobError for a folder with overrides."""
    folder = expand_home(text)
    if folder.is_dir():
        if overrides:
            raise JobError(
                f"--set {overrides[0]!r}: {text} is the folder of a run, which is reported as it was made: leave --set"
                " out; another value needs other soups, by `gnnsoup soup JOB --set …`"
            )
        return folder
    try:
        job = load_job(text, overrides)
    except MissingJobError:
        return folder  # that it is no run is said by whoever reads it
    say_overruled(overrides, job)
    return RunDir.of(job).root


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Report each run; where there are several, compare them too."""
    roots = [_find_root(text, arguments.set) for text in arguments.runs or ("pubmed",)]
    for root in roots:
        report(root, must_write=False)
    if len(roots) > 1:
        print(f"\n{compare_runs([read_contents(root) for root in roots])}", flush=True)
