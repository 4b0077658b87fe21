"""`gnnsoup report`: write a run's report.h5 and print its table; several runs are compared."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from gnnsoup_hpc.analysis.report import build
from gnnsoup_hpc.analysis.report.brief import show_brief
from gnnsoup_hpc.analysis.report.compare import compare_runs
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.documents import show_grid_as_json, show_run_as_json
from gnnsoup_hpc.analysis.report.grid import read_grid, show_grid, write_grid
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.cli.common import Form, choose_form, say_overruled
from gnnsoup_hpc.config import loading
from gnnsoup_hpc.errors import JobError, MissingJobError, RunError
from gnnsoup_hpc.io.report import read_tables
from gnnsoup_hpc.io.tables import TableFormat, write_tables
from gnnsoup_hpc.models.jobs import load_job, load_job_of_run
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils.paths import expand_home

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def report(root: Path, must_write: bool = True, form: Form = "brief") -> None:
    """Write the report.h5 of the run in folder `root`, and print it in a form, whether it could be written or not.

    Raises: RunError where it could not; unless `must_write`, a run that may only be read is no error, but a line.
    """
    write, show = _read(root, form)
    path, missing = RunDir(root).report, ""
    try:
        write()
    except RunError as error:
        cause = error.__cause__
        if must_write or not (isinstance(cause, OSError) and cause.errno in _READ_ONLY):
            _print(show(), form)
            raise
        missing = f"{path} is not written: the run may only be read here ({cause.strerror})"
    _print(show(), form, missing or f"-> {path}")


def _print(text: str, form: Form, end: str = "") -> None:
    """Print a report as it is asked for; a last line for people."""
    if form == "json":
        print(text, flush=True)
    elif form != "nothing":
        print(f"\n{text}" + (f"\n{end}" if end else ""), flush=True)


def _read(root: Path, form: Form) -> tuple[Callable[[], None], Callable[[], str]]:
    """What writes the report of a run, and what gives its text."""
    path = RunDir(root).job
    if path.is_file() and loading.load(str(path)).sweep.trains:
        swept = read_grid(load_job_of_run(root))
        return partial(write_grid, swept), partial(show_grid_as_json if form == "json" else show_grid, swept)
    found = read_contents(root)
    show = {"verbose": show_run, "json": show_run_as_json}.get(form, show_brief)
    return partial(build.write, found), partial(show, found)


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
    form, asked = choose_form(arguments), [(kind, getattr(arguments, kind)) for kind in get_args(TableFormat)]
    if len(roots) > 1 and (kind := next((kind for kind, folder in asked if folder), "")):
        raise JobError(f"--{kind} takes the tables of one run, and {len(roots)} are named: give the command for each")
    for root in roots:
        report(root, must_write=False, form=form)
        for kind, folder in asked:
            if folder:
                made = write_tables(read_tables(RunDir(root).report), expand_home(folder), kind)
                if form in ("brief", "verbose"):
                    print(f"-> {len(made)} tables: {', '.join(map(str, made))}", flush=True)
    if len(roots) > 1 and form in ("brief", "verbose"):
        print(f"\n{compare_runs([read_contents(root) for root in roots])}", flush=True)
