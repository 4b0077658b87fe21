"""Optimisers without torch's compiler step as torch's own, and hold what they hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from gnnsoup_hpc.utils import optimisers
from tests.arbitrary import normal

CASES: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {"weight_decay": 0.1}),
    ("AdamW", {"weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9}),
]


def take_steps(kind: type[Optimizer], options: dict[str, Any], resume: bool) -> tuple[list[Tensor], dict[str, Any]]:
    """Points after seven steps on a slope that bends, and the state; with `resume`, after a stop in between."""
    points = [normal(seed, 3, 2).requires_grad_() for seed in range(2)]

    def begin() -> tuple[Optimizer, CosineAnnealingLR]:
        optimiser = kind([{"params": points[:1]}, {"params": points[1:], "lr": 0.3}], lr=0.1, **options)
        return optimiser, CosineAnnealingLR(optimiser, 5)

    optimiser, schedule = begin()
    for step in range(7):
        if resume and step == 4:
            kept = optimiser.state_dict(), schedule.state_dict()
            optimiser, schedule = begin()
            optimiser.load_state_dict(kept[0])
            schedule.load_state_dict(kept[1])
        optimiser.zero_grad(set_to_none=True)
        sum(point.sin().square().sum() for point in points).backward()  # type: ignore[union-attr]
        optimiser.step()
        schedule.step()
    return [point.detach() for point in points], optimiser.state_dict()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_steps_and_states_are_those_of_torchs_own(name: str, options: dict[str, Any], resume: bool) -> None:
    ours, held = take_steps(getattr(optimisers, name), options, resume)
    theirs, theirs_held = take_steps(getattr(torch.optim, name), options, resume)
    close: dict[str, Any] = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(held["state"], theirs_held["state"], **close)
    assert held["param_groups"] == theirs_held["param_groups"]
    assert all(point.requires_grad is False and bool(point.isfinite().all()) for point in ours)
