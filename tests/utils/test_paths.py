"""Fields that name a place: homes and environment variables are replaced; what cannot be is an error in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils import paths


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("DOLLAR", "a$SCRATCH")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("runs", "runs"),
        ("$SCRATCH/runs", "/scratch/me/runs"),
        ("${SCRATCH}2/runs", "/scratch/me2/runs"),
        ("~/runs", "/home/me/runs"),
        ("~", "/home/me"),
        ("~/$SCRATCH", "/home/me/scratch/me"),
        ("a/~/b", "a/~/b"),
        ("./~", "~"),
        ("$$SCRATCH", "$SCRATCH"),
        ("price$", "price$"),
        ("a$/b", "a$/b"),
        ("$DOLLAR", "a$SCRATCH"),  # a value is not looked into
    ],
)
def test_what_a_text_names(text: str, path: str) -> None:
    assert paths.expand(text, "runs") == Path(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("$UNSET/runs", r"runs = '\$UNSET/runs': the environment variable UNSET is not set"),
        ("a/${EMPTY}/b", "the environment variable EMPTY is not set"),
        ("~nobody-of-that-name/runs", "the home folder ~nobody-of-that-name is not known here"),
        ("a\0b", "a path cannot hold a NUL"),
    ],
)
def test_what_cannot_be_replaced_is_an_error_that_names_the_field(text: str, why: str) -> None:
    with pytest.raises(JobError, match=why):
        paths.expand(text, "runs")


@pytest.mark.parametrize("name", ["plain", "$SCRATCH", "~", "~me/x", "a$$b", "/abs/$x"])
def test_any_path_has_a_text_that_names_it(name: str) -> None:
    assert paths.expand(paths.quote(Path(name)), "runs") == Path(name)


def test_the_folder_of_runs_is_such_a_field() -> None:
    assert RunDir.of(Job(name="x", runs="$SCRATCH/runs")).root == Path("/scratch/me/runs/x")
