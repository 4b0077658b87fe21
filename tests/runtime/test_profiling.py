"""Time and memory of a block: what is seen, what is not, and that nothing is guessed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc.runtime import profiling
from gnnsoup_hpc.runtime.profiling import COUNTS, QUANTITIES, Meter, host_bytes, subtract_baseline
from tests.runs import CPU

SIZE = 64 * 2**20
SEEN = (0.98 * SIZE, 1.25 * SIZE)  # the kernel counts pages in batches a thread, so the least is not exact


def allocated() -> np.ndarray:
    """64 MiB that are really there, since each page is written."""
    return np.ones(SIZE // 8)


def in_small_pieces() -> list[bytes]:
    """64 MiB in pieces that the C library keeps for itself when they are freed."""
    return [bytes([number % 256]) * 4000 for number in range(SIZE // 4000)]


@pytest.fixture
def meter() -> Meter:
    """A meter, where the kernel lets the high-water mark be reset."""
    with (probe := Meter(CPU)):
        pass
    if math.isnan(probe.measurement["peak_host_bytes"]):
        pytest.skip("this kernel does not reset the high-water mark")
    return Meter(CPU)


def test_sees_what_lives_inside_the_block(meter: Meter) -> None:
    with meter:
        kept = allocated()
    assert kept.sum() == SIZE // 8
    assert SEEN[0] < subtract_baseline(meter.measurement) < SEEN[1]


def test_sees_what_is_freed_again_inside_the_block(meter: Meter) -> None:
    with meter:
        allocated()
    assert SEEN[0] < subtract_baseline(meter.measurement) < SEEN[1]


def test_does_not_see_what_was_freed_before(meter: Meter) -> None:
    allocated()
    with meter:
        small = np.ones(1000)
    assert small.sum() == 1000.0
    assert subtract_baseline(meter.measurement) < 0.25 * SIZE


def test_a_peak_cannot_hide_in_what_was_freed_before(meter: Meter) -> None:
    pieces = in_small_pieces()
    last = pieces.pop()  # while it lives, the heap that the others lay in does not shrink by itself
    pieces.clear()
    with meter:
        pieces = in_small_pieces()
    assert len(pieces) == SIZE // 4000
    assert last == pieces[-1]
    assert subtract_baseline(meter.measurement) > 0.9 * SIZE


def test_what_lives_throughout_is_in_the_baseline(meter: Meter) -> None:
    kept = allocated()
    with meter:
        pass
    assert kept.sum() == SIZE // 8
    assert meter.measurement["baseline_host_bytes"] > SIZE
    assert subtract_baseline(meter.measurement) < 0.25 * SIZE


def test_phases_and_compute_add_up_to_the_whole() -> None:
    with (meter := Meter(CPU)):
        for name in ("graph", "ingredients", "graph"):
            with meter.phase(name):
                np.ones(100_000).sum()
    spent = meter.measurement
    parts = [spent[f"seconds_{name}"] for name in ("ingredients", "graph", "compute")]
    assert all(seconds > 0.0 for seconds in parts)
    assert spent["seconds"] == pytest.approx(sum(parts), rel=1e-9)


def test_a_phase_that_fails_is_booked_too() -> None:
    with (meter := Meter(CPU)), pytest.raises(ZeroDivisionError), meter.phase("graph"):
        np.ones(1 // 0)
    assert meter.measurement["seconds_graph"] > 0.0


def test_there_are_no_other_phases() -> None:
    with (meter := Meter(CPU)), pytest.raises(KeyError), meter.phase("lunch"):
        pass


def test_the_table_of_quantities_is_closed() -> None:
    with (meter := Meter(CPU)):
        pass
    spent = meter.measurement
    assert set(spent) == set(QUANTITIES)
    assert all(math.isnan(spent[name]) for name in QUANTITIES if "device" in name)
    assert {unit for unit, _ in QUANTITIES.values()} == {"s", "B"}
    assert all(about for _, about in QUANTITIES.values())
    assert set(COUNTS) == {f"{kind}_{where}" for kind in ("forward", "backward") for where in ("whole", "union")}


def test_what_cannot_be_measured_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    with (meter := Meter(CPU)):
        pass
    assert math.isnan(meter.measurement["peak_host_bytes"])
    assert math.isnan(meter.measurement["baseline_host_bytes"])
    assert math.isfinite(meter.measurement["seconds"])

    monkeypatch.setattr(profiling, "STATUS", tmp_path / "none")
    assert math.isnan(host_bytes("VmRSS"))


def test_warm_up_leaves_the_default_generator_alone() -> None:
    before = torch.get_rng_state()
    profiling.warm_up(CPU)
    assert torch.equal(torch.get_rng_state(), before)
