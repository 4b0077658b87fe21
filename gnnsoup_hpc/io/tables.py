"""Tables as files that other programs read: a folder of CSV, or of Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import files

TableFormat = Literal["csv", "parquet"]


def write_tables(tables: Mapping[str, Mapping[str, Any]], folder: Path, form: TableFormat) -> list[Path]:
    """Write each table to a file of its name, histories/pls to histories-pls.csv; the files.

    Numbers are as they are to the last digit, and what is not known (NaN) is empty in CSV. A file that is there is
    written anew. Raises: RunError where one cannot be written, or the package that writes Parquet is not installed.
    """
    from pandas import DataFrame

    if form == "parquet" and find_spec("pyarrow") is None:
        raise RunError(
            "files of Parquet need the package pyarrow, which is not here: pip install pyarrow, or take --csv"
        )
    made = []
    for name, columns in tables.items():
        path = folder / f"{name.replace('/', '-')}.{form}"
        frame = DataFrame(dict(columns))
        with files.publish(path) as private:
            if form == "csv":
                frame.to_csv(private, index=False)
            else:
                frame.to_parquet(private, engine="pyarrow", index=False)
        made.append(path)
    return made
