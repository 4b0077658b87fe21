"""diagnosis.h5: round trip, and what its recipe depends on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from gnnsoup_hpc.analysis.diagnosis.basin import make_columns
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io import diagnosis as store
from gnnsoup_hpc.io.records import Diagnosis, EvalResult, Midpoints
from tests.analysis.diagnosis.kit import TASK, diagnosis

JOB = Job(name="x")


def written(path: Path, found: Diagnosis) -> Path:
    store.write(path, found, make_columns(found, TASK), ["Healthy."], "r" * 64, JOB)
    return path


def test_a_diagnosis_comes_back_as_it_was(tmp_path: Path) -> None:
    found = diagnosis(0.9, 0.5)
    way = Midpoints(
        "aligned", "soup.x", {"0001": EvalResult(0.1, math.inf), "0002": EvalResult(0.2, 0.3)}, EvalResult(0.4, 1)
    )
    found = replace(found, variants=(*found.variants, way), left_out=("0003 is damaged",))
    path = written(tmp_path / "diagnosis.h5", found)
    assert store.read(path) == found
    assert store.read_fingerprint(path) == "r" * 64


def test_one_ingredient_alone_has_no_midpoint(tmp_path: Path) -> None:
    found = replace(diagnosis(0.9), variants=())
    assert store.read(written(tmp_path / "diagnosis.h5", found)) == found


def test_it_is_read_without_this_package(tmp_path: Path) -> None:
    with h5py.File(written(tmp_path / "diagnosis.h5", diagnosis(0.9, 0.5))) as file:
        table = file["midpoints"]
        assert list(table["ingredient"].asstr()) == ["0001", "0002", "all"]
        assert table["in_basin"][:].tolist() == [1, 0, 1]
        assert table["barrier_accuracy"][:] == pytest.approx([0.0, 0.4, 0.0])
        assert file["verdict"].asstr()[0] == "Healthy."
        for group in (table, file["ingredients"]):
            assert all(group[name].attrs["units"] and group[name].attrs["long_name"] for name in group.attrs["columns"])


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "diagnosis.h5", diagnosis(0.9))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"diagnosis.h5 is truncated or damaged"):
        store.read(path)


def test_a_recipe_is_of_graph_weights_and_ways() -> None:
    base = ("g", {"0000": "a"}, ["left"], ["as trained"])
    others = [
        ("h", *base[1:]),
        ("g", {"0000": "b"}, *base[2:]),
        (*base[:2], [], base[3]),
        (*base[:3], ["as trained", "x"]),
    ]
    assert len({store.fingerprint_of(*how) for how in [base, *others]}) == 5
    assert store.fingerprint_of(*base) == store.fingerprint_of("g", {"0000": "a"}, ("left",), ("as trained",))
