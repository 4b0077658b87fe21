"""What `import gnnsoup_hpc` gives beside its commands: runs that are there, and soups of any torch module's states."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from gnnsoup_hpc.io import report
from gnnsoup_hpc.io.model import Trained, read_model
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.models.statistics import recompute_statistics
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.modules import StateSoup, gis, greedy_soup, learned_soup, uniform_soup

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "StateSoup",
    "Trained",
    "gis",
    "greedy_soup",
    "import_checkpoints",
    "learned_soup",
    "load_soup",
    "read_report",
    "recompute_statistics",
    "uniform_soup",
]


def import_checkpoints(
    job: str | PathLike[str], files: Sequence[str | PathLike[str]], key: str = "", overrides: Sequence[str] = ()
) -> Path:
    """Make files the ingredients of a job's run, as `gnnsoup import` does (docs/import.md); the run's folder.

    job: a job file, or the name of a bundled job, with `overrides` as `--set` has them. files: paths and patterns.
    Raises: errors.SoupError, one line that says what is wrong; nothing is written where a file does not fit the model.
    """
    from gnnsoup_hpc.train.imports import import_all

    found, here = load_job(str(job), overrides), launch.read_rank_info()
    import_all(found, [str(file) for file in files], key, here, Log(here.prefix))
    return RunDir.of(found).root


def load_soup(run: str | PathLike[str], method: str) -> Trained:
    """A soup of the run in a folder: `state`, `as_pyg()` its module, `features` and `edges` prepare a raw graph for it.

    Raises: FileError where there is none, it is damaged, or it is an ensemble, which is no one model.
    """
    return read_model(RunDir(Path(run)).soup(method))


def read_report(run: str | PathLike[str]) -> dict[str, DataFrame]:
    """Tables of the report of the run in a folder by their names, as methods, ingredients, phases or histories/pls.

    verdicts and notes have one column, `text`. Raises: FileError where it is missing or damaged.
    """
    from pandas import DataFrame

    return {name: DataFrame(columns) for name, columns in report.read_tables(RunDir(Path(run)).report).items()}
