"""A source that cannot be used: one line that names the file and what is wrong there, and no graph.h5."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.faults.kit import Workdir, fails
from tests.tiny import NODES, planted

STORED = ("--set", "graph.split=stored")


def _with(name: str, place: Any, value: Any) -> dict[str, Any]:
    """The planted array `name` with one value changed."""
    array = planted()[name].copy()
    array[place] = value
    return {name: array}


def _split(train: int, validation: int, test: int) -> dict[str, Any]:
    ids = np.split(np.arange(train + validation + test), np.cumsum([train, validation]))
    return dict(zip(("train_idx", "valid_idx", "test_idx"), ids, strict=True))


@pytest.mark.parametrize(
    ("arrays", "words", "names"),
    [
        pytest.param(_split(60, 0, 60), STORED, ("no validation node", "graph.split"), id="no validation node"),
        pytest.param({}, STORED, ("graph.split = 'stored'", "random"), id="no such split"),
        pytest.param(_with("y", 7, 9) | {"num_classes": 3}, (), ("label 9 of node 7", "[0, 3)"), id="label too high"),
        pytest.param(_with("y", 7, -4), (), ("label -4 of node 7",), id="label too low"),
        pytest.param(_with("y", 7, 10**9), (), ("1000000000",), id="label that no graph has classes for"),
        pytest.param(_with("edge_index", (0, 5), NODES), (), ("source is 300", "300 nodes"), id="edge too high"),
        pytest.param(_with("edge_index", (1, 5), -1), (), ("destination is -1", "300 nodes"), id="edge too low"),
        pytest.param(_with("x", (11, 2), np.nan), (), ("not finite", "node 11"), id="NaN feature"),
        pytest.param({"x": np.array([{1: 2}] * NODES)}, (), ("pickle",), id="pickled array"),
        pytest.param({"x": np.array([["a"] * 3] * NODES)}, (), ("x ", "number"), id="features of text"),
        pytest.param({"y": planted()["y"][:, None] % [2, 3]}, (), ("y ", "(300, 2)"), id="labels in columns"),
        pytest.param({"y": np.array(3)}, (), ("y ",), id="one label"),
        pytest.param(
            {"y": planted()["y"] * 0.5},
            ("--set", "task.kind=multiclass"),
            ("y holds 0.5 at node", "whole numbers"),
            id="fractions",
        ),
        pytest.param({}, ("--set", "partition.parts=301"), ("partition.parts = 301", "300 nodes"), id="K > V"),
    ],
)
def test_arrays_that_are_not_right(
    empty: Workdir, arrays: dict[str, Any], words: tuple[str, ...], names: tuple[str, ...]
) -> None:
    empty.replace_source(**arrays)
    outcome = empty.gnnsoup_here("prepare", *words)
    fails(outcome, *names, *(["tiny.npz"] if arrays else []))
    assert empty.digests().keys() <= {"job.toml"}


def test_the_command_ends_in_one_line(empty: Workdir) -> None:
    empty.replace_source(**_with("x", (11, 2), np.nan))
    fails(empty.gnnsoup("run"), "tiny.npz", "not finite", "node 11", "clean the features")


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, planted()["x"])
    return file.getvalue()


@pytest.mark.parametrize(
    ("bytes_of", "names"),
    [
        pytest.param(lambda good: good[: len(good) // 2], ("not a readable .npz",), id="truncated"),
        pytest.param(lambda good: good[:2000] + bytes([good[2000] ^ 1]) + good[2001:], ("x",), id="bit flipped"),
        pytest.param(lambda good: b"", ("not a readable .npz",), id="empty"),
        pytest.param(lambda good: pickle.dumps({"x": 1}), ("pickle",), id="pickle"),
        pytest.param(lambda good: _npy(), (".npz",), id="one array alone"),
    ],
)
def test_a_file_that_is_no_archive(empty: Workdir, bytes_of: Callable[[bytes], bytes], names: tuple[str, ...]) -> None:
    path = empty.folder / "tiny.npz"
    path.write_bytes(bytes_of(path.read_bytes()))
    fails(empty.gnnsoup_here("prepare"), "tiny.npz", *names)
    assert not empty.graph.exists()


def test_a_missing_source_is_named_with_where_it_was_looked_for(empty: Workdir) -> None:
    (empty.folder / "tiny.npz").unlink()
    fails(empty.gnnsoup_here("run"), "tiny.npz", str(empty.folder))


def test_a_finished_run_needs_no_source(workdir: Workdir) -> None:
    (workdir.folder / "tiny.npz").unlink()
    before = workdir.digests()
    assert "soup: pls is there already" in workdir.gnnsoup_here("run").stdout
    assert {k: v for k, v in workdir.digests().items() if "/" in k} == {k: v for k, v in before.items() if "/" in k}
