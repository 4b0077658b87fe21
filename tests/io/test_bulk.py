"""Rows read past HDF5, against what h5py reads of the same datasets."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.engine.compiled.kernels.checksum import fletcher32
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io.bulk import BulkRows

LAYOUTS = {
    "with checksums": ({"chunks": (7, 3), "fletcher32": True}, True),
    "chunked": ({"chunks": (7, 3)}, True),
    "contiguous": ({}, False),
    "compressed": ({"chunks": (7, 3), "compression": "gzip"}, False),
    "columns apart": ({"chunks": (7, 2), "fletcher32": True}, False),
}


def plain_fletcher32(data: bytes) -> int:
    """By its definition: big-endian 16-bit numbers, sums modulo 65535 where a multiple of it that is not 0 is 65535."""
    first = second = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        first += high << 8 | low
        second += first
    return (second and (second - 1) % 65535 + 1) << 16 | (first and (first - 1) % 65535 + 1)


@given(st.lists(st.sampled_from([0, 1, 0xFFFF, 0xFFFF0000, 0xFFFFFFFF]) | st.integers(0, 2**32 - 1), max_size=30))
def test_checksum_is_fletchers(words: list[int]) -> None:
    array = np.array(words, dtype=np.uint32)
    assert fletcher32(array) == plain_fletcher32(array.tobytes())


def test_checksum_of_a_long_chunk() -> None:
    array = np.random.default_rng(0).integers(0, 2**32, 100_001, dtype=np.uint32)
    assert fletcher32(array) == plain_fletcher32(array.tobytes())


@pytest.mark.parametrize("user_block", [0, 512])
@pytest.mark.parametrize("kind", ["f4", "i4", "i8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_rows_of_any_layout(tmp_path: Path, layout: str, kind: str, user_block: int) -> None:
    options, past_hdf5 = LAYOUTS[layout]
    values = np.random.default_rng(0).integers(-1000, 1000, (40, 3)).astype(kind)
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=user_block) as file:
        file.create_dataset("x", data=values, **options)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        rows = BulkRows(tmp_path / "a.h5", file["x"])
        assert (rows.chunks is not None) == past_hdf5
        for start, stop in [(0, 40), (7, 21), (3, 5), (6, 30), (33, 40), (35, 36), (12, 12)]:
            out = np.zeros((stop - start, 3), dtype=kind)
            rows.into(start, stop, out)
            assert np.array_equal(out, values[start:stop])


def test_what_was_never_written_is_read_by_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (40, 3), "f4", chunks=(7, 3), fillvalue=5.0)[:7] = 1.0
    with h5py.File(tmp_path / "a.h5", "r") as file:
        out = np.zeros((40, 3), dtype=np.float32)
        BulkRows(tmp_path / "a.h5", file["x"]).into(0, 40, out)
    assert out[:7].tolist() == [[1.0] * 3] * 7
    assert out[7:].tolist() == [[5.0] * 3] * 33


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_damage_is_one_line_with_the_file_the_rows_and_the_advice(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.ones((40, 3), dtype=np.float32), chunks=(7, 3), fletcher32=True)
    with h5py.File(path, "r") as file:
        rows, out = BulkRows(path, file["x"], ": make it again"), np.zeros((40, 3), dtype=np.float32)
        assert rows.chunks is not None
        place = int(rows.chunks.offsets[2])
        with path.open("r+b") as raw:
            if damage == "cut":
                raw.truncate(place + 10)
            else:
                raw.seek(place + 10)
                raw.write(b"\x77")
        rows.into(0, 14, out[:14])
        with pytest.raises(FileError, match=r"a\.h5 is damaged or incomplete: .*/x.*: make it again"):
            rows.into(10, 16, out[:6])
