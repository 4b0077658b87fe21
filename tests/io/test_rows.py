"""Rows of a dataset by ranges, against what h5py reads of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io.files import DatasetRows

LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "with checksums": {"chunks": (7, 3), "fletcher32": True},
    "compressed": {"chunks": (7, 3), "compression": "gzip"},
    "in other files": {"external": "here"},
}


@pytest.fixture
def offsets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where in the file preadv was asked to read, as it is asked."""
    found: list[int] = []
    preadv = os.preadv

    def read(handle: int, buffers: list[memoryview], offset: int) -> int:
        found.append(offset)
        return preadv(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", read)
    return found


def made(path: Path, values: np.ndarray, layout: str, user_block: int = 0) -> Path:
    options = LAYOUTS[layout]
    if "external" in options:
        options = {"external": [(str(path.with_suffix(".bin")), 0, values.nbytes)]}
    with h5py.File(path, "w", userblock_size=user_block) as file:
        file.create_dataset("x", data=values, **options)
    return path


@pytest.mark.parametrize("user_block", [0, 512])
@pytest.mark.parametrize("kind", ["f4", "i4", "i8", ">f4"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_rows_of_any_layout(tmp_path: Path, offsets: list[int], layout: str, kind: str, user_block: int) -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (40, 3)).astype(kind)
    path = made(tmp_path / "a.h5", values, layout, user_block)
    with h5py.File(path, "r") as file:
        rows = DatasetRows(path, file["x"])
        for start, stop in [(0, 40), (7, 21), (3, 5), (6, 30), (33, 40), (35, 36), (12, 12)]:
            out = np.zeros((stop - start, 3), dtype=kind)
            rows.read_into(start, stop, out)
            assert np.array_equal(out, values[start:stop])
    past_hdf5 = layout == "contiguous" and kind != ">f4"
    assert len(offsets) == (6 if past_hdf5 else 0)


@pytest.mark.parametrize("user_block", [0, 512])
@pytest.mark.parametrize("options", [{"chunks": (7, 3)}, {}], ids=["chunked", "contiguous"])
def test_what_was_never_written_is_read_by_hdf5(tmp_path: Path, options: dict[str, Any], user_block: int) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=user_block) as file:
        file.create_dataset("x", (40, 3), "f4", fillvalue=5.0, **options)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        out = np.zeros((40, 3), dtype=np.float32)
        DatasetRows(tmp_path / "a.h5", file["x"]).read_into(0, 40, out)
    assert (out == 5.0).all()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_nothing_is_read_of_an_empty_dataset(tmp_path: Path, shape: tuple[int, int]) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file.create_dataset("x", shape, "f4")
    with h5py.File(tmp_path / "a.h5", "r") as file:
        DatasetRows(tmp_path / "a.h5", file["x"]).read_into(0, shape[0], np.empty(shape, dtype=np.float32))


def test_a_call_may_read_less_than_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(120, dtype=np.float32).reshape(40, 3)
    path, preadv = made(tmp_path / "a.h5", values, "contiguous"), os.preadv
    monkeypatch.setattr(os, "preadv", lambda handle, buffers, offset: preadv(handle, [buffers[0][:50]], offset))
    out = np.zeros((30, 3), dtype=np.float32)
    with h5py.File(path, "r") as file:
        DatasetRows(path, file["x"]).read_into(5, 35, out)
    assert np.array_equal(out, values[5:35])


def test_a_file_that_is_cut_while_it_is_open_is_one_line(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((40_000, 3), dtype=np.float32)
    path = made(tmp_path / "a.h5", values, "contiguous")
    with h5py.File(path, "r") as file:
        rows, out = DatasetRows(path, file["x"], ": make it again"), np.zeros((40_000, 3), dtype=np.float32)
        os.truncate(path, path.stat().st_size // 2)
        rows.read_into(0, 10_000, out[:10_000])
        assert np.array_equal(out[:10_000], values[:10_000])
        with pytest.raises(FileError, match=r"a\.h5 is damaged or incomplete: it ends within /x: make it again"):
            rows.read_into(0, 40_000, out)


def test_a_wrong_checksum_of_hdf5s_is_one_line(tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", np.ones((40, 3), dtype=np.float32), "with checksums")
    with h5py.File(path, "r") as file:
        place = file["x"].id.get_chunk_info(2).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place + 10)
        raw.write(b"\x77")
    with h5py.File(path, "r") as file:
        rows, out = DatasetRows(path, file["x"], ": make it again"), np.zeros((40, 3), dtype=np.float32)
        rows.read_into(0, 14, out[:14])
        with pytest.raises(FileError, match=r"a\.h5 is damaged or incomplete: .*: make it again"):
            rows.read_into(10, 16, out[:6])
