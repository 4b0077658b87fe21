"""Settings and fixtures that all tests share."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs run on the CPU

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.engine import sharding
from tests import runs
from tests.once import make_once

MEMORY = Path("/dev/shm")
ROOM = 2 << 30  # bytes that must be free there; all tests leave much less


def _keep_folders_in_memory() -> None:
    """Temporary folders are in memory where there is room: on a disk, tests wait most of all for files to be synced."""
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    found = os.statvfs(MEMORY)
    if found.f_bavail * found.f_frsize >= ROOM and not found.f_flag & os.ST_NOEXEC:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


_keep_folders_in_memory()

# The same examples at each run, so that a red build is red for everybody.
settings.register_profile(
    "steady", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long file that comes late by its name comes first, or its worker would be at it when the others are done."""
    items.sort(key=lambda item: item.path.name != "test_stock_checkpoints.py")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread for everything, unless a test is about threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Whoever runs the tests may ignore Ctrl-C or a hang-up, as nohup does, and their processes would."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def frozen_garbage() -> None:
    """Collections, of which each measurement begins with one, do not look through what imports have made."""
    import torch_geometric.data  # noqa: F401 - by far the most of it

    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def thawed_garbage() -> Iterator[None]:
    """At the end, what is frozen can be collected again: Triton complains of what it cannot free."""
    yield
    gc.unfreeze()


@pytest.fixture
def own_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points called in this process install a hook of theirs; take it away again."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run with three GraphSAGE ingredients. Tests read it; one that changes a run copies it first."""
    return runs.load_job(make_once(tmp_path_factory, "trained-job", runs.train_run))


@pytest.fixture(scope="session")
def finished(trained: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The same run with all soups and its report."""
    folder = make_once(tmp_path_factory, "finished-job", lambda folder: runs.soup_run(runs.copy_run(trained, folder)))
    return trained.model_copy(update={"runs": str(folder / "runs")})


@pytest.fixture(scope="module")
def sections_of_three_rows() -> Iterator[None]:
    """Or a small graph would be one section, and one rank's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SECTION_ROWS", 3)
        yield
