"""`gnnsoup report`: write a run's report.h5 and print its table; several runs are compared."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from gnnsoup_hpc.analysis.report import build
from gnnsoup_hpc.analysis.report.brief import show_brief
from gnnsoup_hpc.analysis.report.compare import compare_runs
from gnnsoup_hpc.analysis.report.contents import Contents, read_contents
from gnnsoup_hpc.analysis.report.documents import show_grid_as_json, show_run_as_json
from gnnsoup_hpc.analysis.report.grid import read_grid, show_grid, write_grid
from gnnsoup_hpc.analysis.report.page.style import check_packages
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.cli.colours import print_report
from gnnsoup_hpc.cli.common import Form, choose_form, say_overruled
from gnnsoup_hpc.config import loading
from gnnsoup_hpc.errors import JobError, MissingJobError, RunError
from gnnsoup_hpc.io.report import read_tables
from gnnsoup_hpc.io.tables import TableFormat, write_tables
from gnnsoup_hpc.models.jobs import load_job, load_job_of_run
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils.paths import expand_home

_COMPARISON = "comparison.html"  # in the folder where the command is given
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True)
class _Report:
    """What writes report.h5, what gives the text, and the run; None of a sweep of training, which has several."""

    write: Callable[[], None]
    show: Callable[[], str]
    run: Contents | None


def report(root: Path, must_write: bool = True, form: Form = "brief", page: Path | None = None) -> Contents | None:
    """Write the report.h5 of the run in folder `root`, and print it in a form, whether it could be written or not.

    page: an HTML page to write too, but for the run of a sweep of training, whose joint runs have theirs. Returns what
    was read, None of such a sweep. Raises: RunError where a file could not be written; unless `must_write`, a run that
    may only be read is no error, but a line.
    """
    found, made = _read(root, form), [f"-> {RunDir(root).report}"]
    try:
        missing = _write(found, RunDir(root).report, must_write)
        made = [missing] if missing else made
        if page is not None and found.run is not None:
            from gnnsoup_hpc.analysis.report.page.build import write_page

            write_page([found.run], page)
            made.append(f"-> {page}" if missing else str(page))
    except RunError:
        _print(found.show(), form)
        raise
    _print(found.show(), form, ("\n" if missing else ", ").join(made))
    return found.run


def _write(found: _Report, path: Path, must_write: bool) -> str:
    """Write report.h5; else why it is not there."""
    try:
        found.write()
    except RunError as error:
        cause = error.__cause__
        if must_write or not (isinstance(cause, OSError) and cause.errno in _READ_ONLY):
            raise
        return f"{path} is not written: the run may only be read here ({cause.strerror})"
    return ""


def _print(text: str, form: Form, end: str = "") -> None:
    """Print a report as it is asked for; a last line for people."""
    if form == "json":
        print(text, flush=True)
    elif form != "nothing":
        print_report(f"\n{text}" + (f"\n{end}" if end else ""))


def _read(root: Path, form: Form) -> _Report:
    path = RunDir(root).job
    if path.is_file() and loading.load(str(path)).sweep.trains:
        swept = read_grid(load_job_of_run(root))
        show_swept = show_grid_as_json if form == "json" else show_grid
        return _Report(partial(write_grid, swept), partial(show_swept, swept), None)
    found = read_contents(root)
    show = {"verbose": show_run, "json": show_run_as_json}.get(form, show_brief)
    return _Report(partial(build.write, found), partial(show, found), found)


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
    _check(arguments, roots)
    several, to = len(roots) > 1, None if arguments.to is None else expand_home(str(arguments.to))
    found = []
    for root in roots:
        page = (to or RunDir(root).page) if arguments.html and not several else None
        found.append(report(root, must_write=False, form=form, page=page))
        for kind, folder in asked:
            if folder:
                _say_made("tables", write_tables(read_tables(RunDir(root).report), expand_home(folder), kind), form)
    runs = [
        read_contents(root) if run is None else run  # of a sweep it says what to name in its place
        for root, run in zip(roots, found, strict=True)
        if run is not None or several or arguments.html or arguments.figures
    ]
    if several and form in ("brief", "verbose"):
        print(f"\n{compare_runs(runs)}", flush=True)
    if arguments.html and several:
        from gnnsoup_hpc.analysis.report.page.build import write_page

        write_page(runs, to or Path(_COMPARISON))
        _say_made("page", [to or Path(_COMPARISON)], form)
    if arguments.figures:
        from gnnsoup_hpc.analysis.report.page.build import write_figures

        _say_made("figures", write_figures(runs[0], expand_home(arguments.figures)), form)


def _check(arguments: argparse.Namespace, roots: Sequence[Path]) -> None:
    """See that options go together, and that what they need is there. Raises: JobError."""
    one = next((name for name in (*get_args(TableFormat), "figures") if getattr(arguments, name)), "")
    if len(roots) > 1 and one:
        what = "figures" if one == "figures" else "tables"
        raise JobError(f"--{one} takes the {what} of one run, and {len(roots)} are named: give the command for each")
    if arguments.to is not None and not arguments.html:
        raise JobError("--to says where the page of --html goes: give --html too")
    if arguments.html or arguments.figures:
        check_packages()


def _say_made(what: str, made: Sequence[Path], form: Form) -> None:
    if form in ("brief", "verbose"):
        count = f"{len(made)} {what}: " if len(made) > 1 else ""
        print(f"-> {count}{', '.join(map(str, made))}", flush=True)
