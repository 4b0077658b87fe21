"""Single values of a file, whichever program wrote it: arrays of one element and texts of fixed length are read too."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np

from gnnsoup_hpc.errors import FileError

_REQUIRED: Any = object()


def get_text(group: h5py.Group, name: str, default: str = _REQUIRED) -> str:
    """An attribute that is a text. Raises: KeyError where it is missing without a default; FileError for no text."""
    value = _attribute(group, name, default)
    if not isinstance(value, str):
        raise _wrong(group, f"attribute {name}", value, "a text")
    return value


def get_integer(group: h5py.Group, name: str, default: int = _REQUIRED) -> int:
    """An attribute that is an integer, or a floating number of that value. Raises: as `get_text` does."""
    value = _attribute(group, name, default)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)
    if not isinstance(value, int | np.integer | np.bool_):
        raise _wrong(group, f"attribute {name}", value, "an integer")
    return int(value)


def get_json(group: h5py.Group, name: str) -> dict[str, Any]:
    """An attribute that is a JSON object. Raises: KeyError where it is missing; FileError for anything else."""
    found = get_text(group, name)
    try:
        value = json.loads(found)
    except ValueError as error:
        raise FileError(f"{group.file.filename}: attribute {name} of {group.name} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise _wrong(group, f"attribute {name}", value, "a JSON object")
    return value


def get_number(group: h5py.Group, name: str, default: float = _REQUIRED) -> float:
    """A dataset of one number. Raises: KeyError where it is missing without a default; FileError for no number."""
    if default is not _REQUIRED and name not in group:
        return default
    value = _plain(_dataset(group, name)[()])
    if not isinstance(value, int | float | np.integer | np.floating):
        raise _wrong(group, name, value, "one number")
    return float(value)


def get_floats(group: h5py.Group, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A dataset of floating numbers as float32. Raises: KeyError where it is missing; FileError for other types."""
    data = _dataset(group, name)
    if data.dtype.kind != "f" or data.shape is None:
        raise FileError(f"{group.file.filename}: {data.name} holds {data.dtype}, where floating numbers are expected")
    with np.errstate(over="ignore"):  # a value too large for float32 becomes infinite
        return np.asarray(data[...], dtype=np.float32)


def get_column(table: h5py.Group, name: str, rows: int) -> np.ndarray[Any, Any]:
    """A column of a table of that many rows; NaN where it is missing. Raises: FileError for another length or type."""
    if name not in table:
        return np.full(rows, np.nan)
    data = _dataset(table, name)
    if data.shape != (rows,) or data.dtype.kind not in "fiu":
        raise FileError(
            f"{table.file.filename}: {data.name} holds {data.dtype} of shape {data.shape}, where {rows} numbers are"
            " expected"
        )
    return np.asarray(data[...])


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    found = group[name]
    if not isinstance(found, h5py.Dataset):
        raise FileError(f"{group.file.filename}: {found.name} is a group, where a dataset is expected")
    return found


def _attribute(group: h5py.Group, name: str, default: Any) -> Any:
    if name not in group.attrs:
        if default is _REQUIRED:
            raise KeyError(f"attribute {name} of {group.name} is missing")
        return default
    return _plain(group.attrs[name])


def _plain(value: Any) -> Any:
    """A single value: some programs write it as an array of one element, and text as bytes."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _wrong(group: h5py.Group, what: str, value: object, wanted: str) -> FileError:
    shown = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return FileError(f"{group.file.filename}: {what} of {group.name} is {shown[:60]}, where {wanted} is expected")
