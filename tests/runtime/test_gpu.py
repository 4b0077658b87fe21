"""What a rank may use of its GPU, and what is said where that is too little. No GPU is needed, for torch is set."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gnnsoup_hpc.config import MachineJob
from gnnsoup_hpc.errors import DeviceMemoryError
from gnnsoup_hpc.runtime import gpu, launch
from gnnsoup_hpc.runtime.launch import RankInfo

GIB = 2**30


def rank(local: int, on_node: int) -> RankInfo:
    return RankInfo(local, on_node, local, on_node, "node")


@pytest.mark.parametrize(
    ("ranks", "gpus", "sharing"), [(1, 1, [1]), (3, 1, [3, 3, 3]), (5, 2, [3, 2, 3, 2, 3]), (2, 4, [1, 1])]
)
def test_ranks_take_gpus_in_turn_and_share_them(ranks: int, gpus: int, sharing: list[int]) -> None:
    assert [launch.count_sharing(rank(local, ranks), gpus, {}) for local in range(ranks)] == sharing
    assert launch.count_sharing(rank(0, ranks), gpus, {"SLURM_GPUS_PER_TASK": "1"}) == 1


@pytest.mark.parametrize(
    ("said", "sharing", "limit"), [("auto", 1, 80), ("auto", 4, 20), ("8 GiB", 4, 8), ("99 GiB", 1, 80)]
)
def test_a_rank_may_use_what_the_job_says_or_its_share(said: str, sharing: int, limit: int) -> None:
    assert gpu.limit_bytes(MachineJob(device_memory_limit=said), 80 * GIB, sharing) == limit * GIB


def test_a_gpu_is_claimed_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * GIB))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, device: asked.append((part, device))
    )
    device = torch.device("cuda", 1)
    assert gpu.claim_gpu(MachineJob(), 1, 2) == device
    assert asked == [device, (0.5, device)]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.05)


@pytest.mark.usefixtures("full")
def test_too_little_memory_is_one_line() -> None:
    """It says what was done, what was missing, what is allowed, and what to do."""
    raised = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 80")
    with pytest.raises(DeviceMemoryError) as caught, gpu.explain_out_of_memory("soup: ls"):
        raise raised
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in text
    assert text.startswith(
        "soup: ls: GPU 1 has too little memory: 2.50 GiB more would be needed beside the 3 GiB in use"
    )
    assert "may use 4 GiB (machine.device_memory_limit" in text
    assert "soup.pls.union" in text


@pytest.mark.usefixtures("full")
def test_what_is_explained_once_keeps_its_words() -> None:
    with (
        pytest.raises(DeviceMemoryError, match=r"^soup: ls: "),
        gpu.explain_out_of_memory("not all was done"),
        gpu.explain_out_of_memory("soup: ls"),
    ):
        raise torch.OutOfMemoryError("no number")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="a defect"), gpu.explain_out_of_memory("soup: ls"):
        raise RuntimeError("a defect")
