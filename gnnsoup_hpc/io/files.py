"""What all files share: atomic publication, provenance, the seal, and one clear line for any file that is not right.

A file is written under a private name beside its place, flushed, synced and renamed. Its first 512 bytes (an HDF5 user
block, which HDF5 tools skip) hold the SHA-256 of all that follows, so any truncated or flipped byte is known before
HDF5 is asked to parse it.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib import metadata
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import h5py
import numpy as np
import numpy.typing as npt

from gnnsoup_hpc import __version__
from gnnsoup_hpc.errors import FileError, MissingFileError, RunError
from gnnsoup_hpc.runtime import processes
from gnnsoup_hpc.runtime.profiling import QUANTITIES, Measurement
from gnnsoup_hpc.utils.hashing import canonical, file_sha256
from gnnsoup_hpc.utils.out_of_core import explain_write, reserve

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

    from gnnsoup_hpc.runtime.progress import Log

_Read = TypeVar("_Read")
Columns = Mapping[str, tuple[Any, str, str]]  # of a table, all equally long: values, unit, meaning


_OVERHEAD = 1.05  # of HDF5's own structures and half-filled chunks
_LEAST = 1 << 16


class ReservedFile(io.FileIO):
    """A new file of `size` bytes and a little more, reserved; it ends where HDF5 has ended it.

    HDF5 crashes on a disk that fills up while it writes: here, one that is too full says so before the first byte.
    What else may go wrong (a disk that breaks, or becomes read-only) is kept from HDF5, and said when it is done.
    """

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, "w+b")
        self._used = 0
        self._trouble: OSError | None = None
        try:
            reserve(self.fileno(), round(size * _OVERHEAD) + _LEAST)
        except OSError:
            self.close()
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move; the end of the file is where HDF5 has written to, for it takes a longer file for one that is there."""
        return super().seek(self._used + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def write(self, content: Buffer, /) -> int:
        """Write all of `content`, or else note what went wrong, for the end."""
        view, start = memoryview(content).cast("B"), self.tell()
        done = 0
        while done < len(view) and self._trouble is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self._trouble = error
        super().seek(start + len(view))
        self._used = max(self._used, self.tell())
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Note where HDF5 ends its file, and keep what is reserved."""
        self._used = self.tell() if size is None else size
        return self._used

    def __exit__(self, *raised: object) -> None:
        """Give back what HDF5 did not use, and close it. Raises: OSError where something could not be written."""
        try:
            if self._trouble is None:
                super().truncate(self._used)
        finally:
            self.close()
        if self._trouble is not None:
            raise self._trouble


USER_BLOCK = 512
CREATOR = "gnnsoup_hpc"
_SEAL = b"gnnsoup_hpc sha256 of the bytes from 512 on: "
_LAYOUT: dict[str, Any] = {"libver": ("v110", "v110"), "track_order": True}


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a private sibling of `path`; it becomes `path` only if the block succeeds.

    Raises: RunError where the folder cannot be written or the disk is full; `path` is then as it was.
    """
    private = processes.private_name(path)
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        processes.remove_leftovers(path.parent, path.name)
        try:
            yield private
            _sync(private)
            os.replace(private, path)
            _sync(path.parent)
        finally:
            private.unlink(missing_ok=True)


def publish_bytes(path: Path, content: bytes) -> None:
    """Publish a file of that content. Raises: RunError, as `publish` does."""
    with publish(path) as private:
        private.write_bytes(content)


def check_writable(path: Path) -> None:
    """See, before hours of work, that their result can be put there.

    Raises: RunError where `path` is a folder, or its folder is not there or not to be written to.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise RunError(f"{path} is a folder: name a file")
    if not folder.is_dir():
        raise RunError(f"{path} cannot be written: there is no folder {folder}; make it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"{path} cannot be written: the folder {folder} may not be written to")


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield a private folder beside `path`, for what its making does not keep in memory; it is removed afterwards."""
    private = processes.private_name(path, "scratch")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        processes.remove_leftovers(path.parent, path.name)
        private.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{private} cannot be made: {error.strerror}; make the folder writable") from None
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it can be made again and nothing is thrown away; its new path."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except OSError as error:
        raise RunError(f"{path} is damaged and cannot be renamed: {error.strerror}; make its folder writable") from None
    return aside


@contextmanager
def create_file(path: Path, kind: str, version: int, about: str, bulk_bytes: int = 0) -> Iterator[h5py.File]:
    """Yield a new HDF5 file of `kind`, sealed and published at `path` if the block succeeds.

    It is built in memory and written in one go, for HDF5 crashes on a disk that fills up while it writes; with
    `bulk_bytes`, the size of a file too large for that, it is built in disk space that is reserved for it.
    """
    with publish(path) as private:
        with ReservedFile(private, bulk_bytes) if bulk_bytes else io.BytesIO() as space:
            with h5py.File(space, "w", userblock_size=USER_BLOCK, **_LAYOUT) as file:
                file.attrs.update(format=f"{CREATOR}/{kind}", format_version=version, about=about, creator=CREATOR)
                file.attrs["creator_version"] = __version__
                file.attrs["created"] = datetime.now(UTC).isoformat(timespec="milliseconds")
                yield file
                file.attrs["complete"] = 1
            if isinstance(space, io.BytesIO):
                private.write_bytes(space.getvalue())
        digest = file_sha256(private, start=USER_BLOCK)
        with private.open("r+b") as sealed:
            sealed.write((_SEAL + digest.encode() + b"\n").ljust(USER_BLOCK, b"\0"))


@contextmanager
def open_file(path: Path, kind: str, version: int, verify: bool = True) -> Iterator[h5py.File]:
    """Yield the file of `kind` at `path`, read-only, once it has shown to be whole and of a version that we know.

    `verify=False` leaves out the seal: for whoever reads little, or what HDF5 checks as it reads, of a large file.
    Raises: FileError naming the file, what is wrong with it and what to do.
    """
    _check_seal(path, verify)
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise FileError(f"{path} is truncated or damaged: {error}") from None
    with file:
        with explain_damage(path):
            _check_kind(file, path, kind, version)
        yield file


@contextmanager
def read_file(path: Path, kind: str, version: int, verify: bool = True) -> Iterator[h5py.File]:
    """`open_file` around reads alone: what is missing or damaged is a FileError too."""
    with open_file(path, kind, version, verify) as file, explain_damage(path):
        yield file


def read_kept(path: Path, read: Callable[[Path], _Read], log: Log, command: str) -> _Read | None:
    """What `read` makes of a file of an earlier time; None where there is none, or a damaged one, as the log says."""
    if not path.exists():
        return None
    try:
        return read(path)
    except FileError as error:
        log.say(f"{command}: {error}; made again")
        return None


@contextmanager
def explain_damage(
    path: Path, advice: str = "", signs: tuple[type[Exception], ...] = (OSError, KeyError)
) -> Iterator[None]:
    """Around reads of an open file: a checksum that fails, or a part that is missing, becomes a FileError."""
    try:
        yield
    except signs as error:
        raise FileError(f"{path} is damaged or incomplete: {error}{advice}") from error


def read_seal(path: Path) -> bytes:
    """What a file begins with, which is the same of files with the same content. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(USER_BLOCK)


def _check_seal(path: Path, verify: bool) -> None:
    """Raise FileError where there is no seal, or (`verify`) it is wrong; only a newline MAY follow its digits."""
    try:
        with path.open("rb") as file:
            head = file.read(USER_BLOCK)
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    if not head.startswith(_SEAL):
        raise FileError(f"{path} is not a file of {CREATOR}, or its beginning is damaged")
    if not verify:
        return
    digest = file_sha256(path, start=USER_BLOCK)
    says, rest = head[len(_SEAL) :][: len(digest)], head[len(_SEAL) + len(digest) :]
    if says != digest.encode():
        shown = says.decode("ascii", "replace")[:12]
        raise FileError(f"{path} is truncated or damaged: its SHA-256 is {digest[:12]}…, its seal says {shown}…")
    if rest.removeprefix(b"\n").strip(b"\0") or len(head) < USER_BLOCK:
        raise FileError(
            f"{path} is damaged: in its first {USER_BLOCK} bytes only a newline and NULs may follow the seal's digits"
        )


def _check_kind(file: h5py.File, path: Path, kind: str, version: int) -> None:
    found = get_text(file, "format", "nothing")
    if found != f"{CREATOR}/{kind}":
        raise FileError(f"{path} holds {found!r} where {CREATOR}/{kind} is expected")
    if (newer := get_integer(file, "format_version")) > version:
        raise FileError(
            f"{path} has format version {newer}; this {CREATOR} {__version__} reads up to {version}: use a newer one"
        )
    if not get_integer(file, "complete", 0):
        raise FileError(f"{path} was never completed: remove it and give the command that makes it again")


def put(group: h5py.Group, name: str, data: Any, unit: str, about: str) -> h5py.Dataset:
    """Write a dataset with its unit and meaning; an array is chunked and carries a checksum a chunk."""
    if isinstance(data, str | list):
        dataset = group.create_dataset(name, data=data, dtype=h5py.string_dtype())
    else:
        array = np.asarray(data)
        options = {"chunks": _chunks(array), "fletcher32": True} if array.size and array.ndim else {}
        dataset = group.create_dataset(name, data=array, **options)
    dataset.attrs.update(units=unit, long_name=about)
    return dataset


def write_space(
    group: h5py.Group, name: str, shape: tuple[int, ...], kind: npt.DTypeLike, unit: str, about: str
) -> h5py.Dataset:
    """A contiguous dataset of that shape, to be filled block by block; only the seal tells whether it is damaged."""
    dataset = group.create_dataset(name, shape=shape, dtype=kind)
    dataset.attrs.update(units=unit, long_name=about)
    return dataset


def put_provenance(file: h5py.File, job: str, **more: object) -> None:
    """Write where a file comes from: the resolved job, the machine, the versions of what computed it."""
    group = file.create_group("provenance", track_order=True)
    put(group, "job", job, "TOML", "the resolved job")
    put(group, "versions", canonical(versions()), "JSON", "versions of what computed this file")
    where = {"host": socket.gethostname(), "machine": platform.machine(), "system": platform.platform()}
    group.attrs.update(where | more)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version(), CREATOR: __version__}
    for package in ("torch", "numpy", "scipy", "h5py", "pymetis", "mpi4py", "torch_geometric"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # MPI's, for one, where one rank runs alone
            found[package] = "not installed"
    return found


def put_table(parent: h5py.Group, name: str, columns: Columns, about: str) -> None:
    """Write a table as a group of columns; `columns` keeps their order."""
    group = parent.create_group(name, track_order=True)
    group.attrs.update(about=about, columns=list(columns))
    for column, (data, unit, meaning) in columns.items():
        put(group, column, data, unit, meaning)


def put_records(parent: h5py.Group, name: str, kind: type, records: Sequence[Any], about: str) -> None:
    """Write records as a table. Fields of their dataclass `kind` are annotated with type, unit and meaning."""
    hints = get_type_hints(kind, include_extras=True).items()
    columns = {field: (column_of(records, field, hint.__origin__), *hint.__metadata__) for field, hint in hints}
    put_table(parent, name, columns, about)


def get_records(table: h5py.Group, kind: type[_Read]) -> Iterator[_Read]:
    """The records that `put_records` wrote. Raises: KeyError where a column is missing."""
    return starmap(kind, get_rows(table, get_type_hints(kind)))


def column_of(records: Sequence[Any], field: str, kind: type) -> Any:
    """One field of all records: an array, in which int becomes int64 and float float64; a list of texts."""
    values = [getattr(record, field) for record in records]
    return values if kind is str else np.array(values, dtype=kind)


def get_rows(table: h5py.Group, names: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of a table, the values of some of its columns in that order. Raises: KeyError where one is missing."""
    columns = (table[name].asstr() if table[name].dtype.kind == "O" else table[name] for name in names)
    return zip(*(column[:].tolist() for column in columns), strict=True)


def put_cost(file: h5py.File, spent: Measurement) -> None:
    """Write time and memory as the group cost/: every quantity; NaN = not measurable where the file was made."""
    group = file.create_group("cost", track_order=True)
    for name, (unit, about) in QUANTITIES.items():
        put(group, name, spent[name], unit, about)


def get_cost(file: h5py.File) -> Measurement:
    """Time and memory; NaN for what a file does not have, as one that another program wrote may lack all."""
    return Measurement({name: get_number(file, f"cost/{name}", math.nan) for name in QUANTITIES})


def _chunks(array: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Whole rows, about 256 KiB a chunk, so that reading a part reads little beside it."""
    return (min(len(array), max(1, (1 << 18) // array[:1].nbytes)), *array.shape[1:])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- rows


@dataclass(frozen=True)
class DatasetRows:
    """The rows of `dataset` in the file `path`, which stays open, by ranges. `advice` ends what is said of damage.

    A contiguous dataset lies in the file as it lies in memory, so its rows are read straight to where they are wanted,
    by the file's own descriptor, without HDF5 and the lock that it holds. Any other layout is read by HDF5.
    """

    path: Path
    dataset: h5py.Dataset
    advice: str = ""

    def read_into(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Read rows start to stop - 1 into `out` (stop - start, …), contiguous and of the dataset's type.

        Raises: FileError where the file ends too early, or cannot be read, or a checksum of HDF5's is wrong.
        """
        if not out.size:
            return
        with explain_damage(self.path, self.advice):
            if self._place is None:
                self.dataset.read_direct(out, np.s_[start:stop])
                return
            handle, offset = self._place
            offset += start * (out.nbytes // len(out))
            view = out.reshape(-1).view(np.uint8).data
            while len(view):  # a call reads 2 GiB at most
                count = os.preadv(handle, [view], offset)
                if count == 0:
                    raise OSError(f"it ends within {self.dataset.name}")
                view, offset = view[count:], offset + count

    @cached_property
    def _place(self) -> tuple[int, int] | None:
        """The open file's descriptor, and where its rows begin; None where HDF5 must read them."""
        of = self.dataset.id
        offset = of.get_offset()  # None unless contiguous; of what was never written it is wrong beside a user block
        if offset is None or not of.get_storage_size():
            return None
        if self.dataset.external or not self.dataset.dtype.isnative or self.dataset.file.driver != "sec2":
            return None
        return self.dataset.file.id.get_vfd_handle(), offset


# ---- values
# Single values of a file, whichever program wrote it: arrays of one element and texts of fixed length are read too.


def get_text(group: h5py.Group, name: str, default: str | None = None) -> str:
    """An attribute that is a text. Raises: KeyError where it is missing without a default; FileError for no text."""
    value = _attribute(group, name, default)
    if not isinstance(value, str):
        raise _wrong(group, f"attribute {name}", value, "a text")
    return value


def get_integer(group: h5py.Group, name: str, default: int | None = None) -> int:
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


def get_number(group: h5py.Group, name: str, default: float | None = None) -> float:
    """A dataset of one number. Raises: KeyError where it is missing without a default; FileError for no number."""
    if default is not None and name not in group:
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


def get_numbers(group: h5py.Group, name: str) -> np.ndarray[Any, Any]:
    """A dataset of int64 as it is, of floating numbers as float32. Raises: as `get_floats`."""
    data = _dataset(group, name)
    whole = data.dtype == np.int64 and data.shape is not None
    return np.asarray(data[...]) if whole else get_floats(group, name)


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
    value = group.attrs.get(name, default)
    if value is None:
        raise KeyError(f"attribute {name} of {group.name} is missing")
    return _plain(value)


def _plain(value: Any) -> Any:
    """A single value: some programs write it as an array of one element, and text as bytes."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _wrong(group: h5py.Group, what: str, value: object, wanted: str) -> FileError:
    shown = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return FileError(f"{group.file.filename}: {what} of {group.name} is {shown[:60]}, where {wanted} is expected")
