"""Publication, the seal, and what is said of any file that is not right."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from gnnsoup_hpc import __version__
from gnnsoup_hpc.errors import FileError, RunError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.runtime import processes
from gnnsoup_hpc.utils import hashing

SEAL = b"gnnsoup_hpc sha256 of the bytes from 512 on: "
SEALED = len(SEAL) + 64


def made(path: Path, kind: str = "thing", version: int = 1, bulk_bytes: int = 0) -> Path:
    with files.create_file(path, kind, version, "a thing", bulk_bytes) as file:
        files.put(file, "numbers", np.arange(300.0), "B", "some numbers")
        files.put(file, "words", ["one", "zwölf", ""], "1", "some words")
        files.put_provenance(file, "name = 'x'\n", rank=3)
    return path


def numbers(path: Path, verify: bool = True) -> np.ndarray:
    with files.read_file(path, "thing", 1, verify) as file:
        return np.asarray(file["numbers"][:])


def resealed(path: Path) -> None:
    """Give a changed file the seal that its bytes want."""
    data = path.read_bytes()
    digest = hashlib.sha256(data[512:]).hexdigest().encode()
    path.write_bytes(SEAL + digest + data[SEALED:])


def changed(path: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    resealed(path)
    return path


@pytest.fixture(params=[0, 10_000], ids=["built in memory", "built on disk"])
def thing(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return made(tmp_path / "thing.h5", bulk_bytes=request.param)


def test_a_file_is_published_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text"
    with files.publish(path) as private:
        private.write_text("new")
        assert not path.exists()
        assert private.parent == path.parent
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "text"
    path.write_text("old")

    def fail() -> None:
        with files.publish(path) as private:
            private.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_write_leaves_the_old_file_and_says_what_to_do(thing: Path) -> None:
    before = thing.read_bytes()

    def fail() -> None:
        with files.create_file(thing, "thing", 1, "a thing") as file:
            file["numbers"] = np.ones(1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match=r"thing.h5 cannot be written: No space left on device"):
        fail()
    assert thing.read_bytes() == before
    assert list(thing.parent.iterdir()) == [thing]


def test_a_file_too_large_for_the_disk_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"thing.h5 cannot be written: No space left on device: \d+ KiB are needed"):
        made(tmp_path / "thing.h5", bulk_bytes=2**62)
    assert list(tmp_path.iterdir()) == []


def of_process(name: str, pid: int) -> str:
    """What another process here would call its private file."""
    return processes.private_name(Path(name)).name.removesuffix(str(os.getpid())) + str(pid)


def test_what_dead_writers_left_is_swept_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living, elsewhere, other = (
        tmp_path / name
        for name in (
            of_process("text", ended.pid),
            of_process("text", os.getppid()),
            f".text.elsewhere-1.{ended.pid}",
            of_process("other", ended.pid),
        )
    )
    for path in (dead, living, elsewhere, other):
        path.write_text("half")
    with files.publish(tmp_path / "text") as private:
        private.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"text", living.name, elsewhere.name, other.name}


def test_a_damaged_file_is_set_aside_under_another_name(thing: Path) -> None:
    content = thing.read_bytes()
    aside = files.set_aside(thing)
    assert aside.name == "thing.h5.damaged"
    assert aside.read_bytes() == content
    assert not thing.exists()


def test_plain_h5py_reads_a_file(thing: Path) -> None:
    with h5py.File(thing) as file:
        assert file.userblock_size == 512
        assert file["numbers"][:].tolist() == list(range(300))
        assert dict(file["numbers"].attrs) == {"units": "B", "long_name": "some numbers"}
        assert file["words"].asstr()[:].tolist() == ["one", "zwölf", ""]
        assert file["numbers"].fletcher32
        assert file.attrs["format"] == "gnnsoup_hpc/thing"
        assert file.attrs["format_version"] == 1
        assert file.attrs["creator_version"] == __version__
        assert file.attrs["created"].endswith("+00:00")
        assert file.attrs["complete"] == 1
        assert file["provenance/job"].asstr()[()] == "name = 'x'\n"
        assert file["provenance"].attrs["rank"] == 3


def test_the_seal_is_the_documented_one(thing: Path) -> None:
    data = thing.read_bytes()
    assert data[: len(SEAL)] == SEAL
    assert data[len(SEAL) : SEALED].decode() == hashlib.sha256(data[512:]).hexdigest()
    assert data[SEALED:512] == b"\n" + bytes(512 - SEALED - 1)


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x20
    path.write_bytes(data)


def refused(path: Path) -> bool:
    try:
        numbers(path)
    except FileError as error:
        return path.name in str(error)
    return False


def slips(path: Path, places: range) -> list[int]:
    """Places whose flipping was not found."""
    whole, unseen = path.read_bytes(), []
    for place in places:
        flipped(path, place)
        if not refused(path):
            unseen.append(place)
        path.write_bytes(whole)
    return unseen


def test_any_flipped_byte_of_the_seal_is_found(thing: Path) -> None:
    assert slips(thing, range(SEALED)) == []


def test_any_flipped_byte_after_the_seal_is_found(thing: Path) -> None:
    assert slips(thing, range(SEALED, 512, 13)) == []


def test_any_flipped_byte_of_the_file_is_found(thing: Path) -> None:
    assert slips(thing, range(512, thing.stat().st_size, 41)) == []


def test_any_truncation_is_found(thing: Path) -> None:
    whole = thing.read_bytes()
    sizes = [*range(0, 600, 9), *range(600, len(whole), 101), len(whole) - 1]
    for size in sizes:
        thing.write_bytes(whole[:size])
        assert refused(thing), size
    thing.write_bytes(whole + b"\0")
    assert refused(thing)


def test_a_chunk_of_a_file_opened_without_its_seal_is_still_checked(thing: Path) -> None:
    data = thing.read_bytes()
    place = data.index(np.arange(300.0).tobytes())
    flipped(thing, place + 8)
    with pytest.raises(FileError, match=r"thing.h5 is damaged or incomplete"):
        numbers(thing, verify=False)


def test_a_file_opened_without_its_seal_is_refused_when_truncated(thing: Path) -> None:
    thing.write_bytes(thing.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"thing.h5 is truncated or damaged"):
        numbers(thing, verify=False)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "soup.h5", kind="soup")
    with pytest.raises(FileError, match=r"soup.h5 holds 'gnnsoup_hpc/soup' where gnnsoup_hpc/thing is expected"):
        numbers(path)


def test_a_newer_version_is_refused_and_an_older_one_read(tmp_path: Path) -> None:
    newer = made(tmp_path / "newer.h5", version=2)
    with pytest.raises(FileError, match=r"newer.h5 has format version 2; .* reads up to 1: use a newer one"):
        numbers(newer)
    with files.open_file(made(tmp_path / "older.h5"), "thing", 2) as file:
        assert file.attrs["format_version"] == 1


@pytest.mark.parametrize("change", [lambda f: f.attrs.pop("complete"), lambda f: f.attrs.modify("complete", 0)])
def test_a_file_never_completed_is_refused(thing: Path, change: Callable[[h5py.File], None]) -> None:
    with pytest.raises(FileError, match=r"thing.h5 was never completed"):
        numbers(changed(thing, change))


def test_what_is_missing_from_a_file_is_named(thing: Path) -> None:
    with pytest.raises(FileError, match=r"thing.h5 is damaged or incomplete.*numbers"):
        numbers(changed(thing, lambda file: file.pop("numbers")))
    with pytest.raises(FileError, match=r"thing.h5 is damaged or incomplete.*format_version"):
        numbers(changed(thing, lambda file: file.attrs.pop("format_version")))


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain.h5"
    with h5py.File(plain, "w") as file:
        file["numbers"] = np.ones(3)
    empty = tmp_path / "empty.h5"
    empty.touch()
    for path in (plain, empty):
        with pytest.raises(FileError, match=f"{path.name} is not a file of gnnsoup_hpc"):
            numbers(path)
    with pytest.raises(FileError, match=r"none.h5 does not exist"):
        numbers(tmp_path / "none.h5")
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        numbers(tmp_path)


def test_a_table_keeps_its_columns_in_order(tmp_path: Path) -> None:
    columns = {"b": (np.array([1, 2]), "s", "seconds"), "a": (["x", "y"], "1", "names")}
    with files.create_file(tmp_path / "table.h5", "thing", 1, "a table") as file:
        files.put_table(file, "table", columns, "rows")
    with h5py.File(tmp_path / "table.h5") as file:
        assert list(file["table"].attrs["columns"]) == ["b", "a"]
        assert list(file["table"]) == ["b", "a"]
        assert file["table"].attrs["about"] == "rows"
        assert file["table/b"].attrs["units"] == "s"


@pytest.mark.parametrize("data", [np.zeros((0, 4), np.float32), np.float64(2.5), 7, [], "text", np.zeros((3, 0))])
def test_empty_and_single_values_are_written(tmp_path: Path, data: object) -> None:
    with files.create_file(tmp_path / "one.h5", "thing", 1, "one") as file:
        files.put(file, "value", data, "1", "a value")
    with h5py.File(tmp_path / "one.h5") as file:
        assert file["value"].shape == np.shape(data)


def test_chunks_hold_whole_rows(tmp_path: Path) -> None:
    with files.create_file(tmp_path / "wide.h5", "thing", 1, "wide") as file:
        files.put(file, "wide", np.zeros((3000, 500), np.float32), "1", "wide rows")
        assert file["wide"].chunks == (131, 500)  # the most rows within 256 KiB


def test_content_hash_depends_on_names_types_shapes_and_values_alone() -> None:
    base = {"a": np.arange(6.0), "b": np.array([1])}
    assert hashing.content_sha256(base) == hashing.content_sha256(dict(reversed(base.items())))
    assert hashing.content_sha256({"a": np.arange(12.0)[::2]}) == hashing.content_sha256(
        {"a": np.arange(0.0, 12.0, 2.0)}
    )
    others = [
        {"a": np.arange(6.0)},
        {"c": np.arange(6.0), "b": np.array([1])},
        base | {"a": np.arange(6.0).reshape(2, 3)},
        base | {"a": np.arange(6.0, dtype=np.float32)},
        base | {"a": np.arange(6)},
        base | {"a": np.nextafter(np.arange(6.0), 9.0)},
    ]
    hashes = {hashing.content_sha256(arrays) for arrays in (base, *others)}
    assert len(hashes) == 1 + len(others)


def test_versions_name_what_results_depend_on() -> None:
    found = files.versions()
    assert found["gnnsoup_hpc"] == __version__
    assert found["numpy"] == np.__version__
    assert found["h5py"] == h5py.__version__
