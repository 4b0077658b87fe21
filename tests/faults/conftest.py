"""Runs that each test may hurt: copies of one that was finished once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kit
from tests.faults.kit import Workdir


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """A finished run of three ingredients; not to be changed."""
    return kit.make_finished(tmp_path_factory)


@pytest.fixture
def workdir(original: Workdir, tmp_path: Path) -> Workdir:
    """A finished run of three ingredients."""
    return kit.copy_workdir(original, tmp_path)


@pytest.fixture
def empty(tmp_path: Path) -> Workdir:
    """A job and its graph, with nothing run yet."""
    return kit.make_workdir(tmp_path)
