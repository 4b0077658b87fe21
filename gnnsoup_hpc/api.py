"""What `import gnnsoup_hpc` gives beside its commands: runs that are there, and soups of any torch module's states."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from gnnsoup_hpc.io import report
from gnnsoup_hpc.io.model import Trained, read_model
from gnnsoup_hpc.models.statistics import recompute_statistics
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.modules import StateSoup, gis, greedy_soup, learned_soup, uniform_soup

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "StateSoup",
    "Trained",
    "gis",
    "greedy_soup",
    "learned_soup",
    "load_soup",
    "read_report",
    "recompute_statistics",
    "uniform_soup",
]


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
