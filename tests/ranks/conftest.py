"""Runs for real ranks: copies of what was finished once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kit
from tests.faults.kit import Bowl


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bowl:
    """A finished run of three ingredients; not to be changed."""
    return kit.finished(tmp_path_factory)


@pytest.fixture
def bowl(original: Bowl, tmp_path: Path) -> Bowl:
    """A finished run of three ingredients."""
    return kit.copied(original, tmp_path)
