"""From what the children measured to a JSON document: when each run first had GIS's accuracy, and the ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from gnnsoup_hpc.bench.quality.order import LEARNED, PLAIN
from gnnsoup_hpc.bench.quality.parent import QualityResult

WITHIN = 0.001  # 0.1 points
_ROUNDING = 1e-9  # of a difference of two shares


def document(about: Mapping[str, Any], machine: Mapping[str, Any], found: Sequence[QualityResult]) -> dict[str, Any]:
    """Everything that was measured, of nothing but what JSON has."""
    target = target_of(found)
    rows = [_row(one, target) for one in found]
    known = {row["method"]: row for row in rows}
    for row in rows:
        row |= _ratios(row, known[PLAIN], known.get("gis"))
    return {
        "format": "gnnsoup_hpc/quality",
        "format_version": 1,
        "machine": dict(machine),
        "run": dict(about),
        "target": target,
        "within": WITHIN,
        "methods": rows,
    }


def target_of(found: Iterable[QualityResult]) -> float | None:
    """GIS's validation accuracy; should rounding set plain GIS and ours apart, the higher one."""
    known = [
        run["validation_accuracy"]
        for one in found
        if one.what not in LEARNED
        for run in one.runs
        if run["validation_accuracy"] is not None
    ]
    return max(known, default=None)


def first_within(curve: Iterable[Sequence[float]], target: float | None) -> Sequence[float] | None:
    """The first [step, seconds, accuracy] that is no more than 0.1 points below the target; None if there is none."""
    if target is None:
        return None
    return next((point for point in curve if point[2] >= target - WITHIN - _ROUNDING), None)


def _row(found: QualityResult, target: float | None) -> dict[str, Any]:
    runs = [_run(run, target) for run in found.runs]
    times = [run["seconds_to_quality"] for run in runs]
    reached = [run for run in runs if run["seconds_to_quality"] is not None]
    peak, baseline = found.peak_bytes, found.baseline_bytes
    return {
        "method": found.what,
        "runs": runs,
        "errors": found.errors,
        "seconds": _median([run["seconds"] for run in runs]),
        "seconds_to_quality": _median([math.inf if time is None else time for time in times]),
        "seconds_to_quality_range": _range(times),
        "reached": len(reached),
        "step": _median([run["step"] for run in reached]),
        "accuracy_then": _median([run["accuracy_then"] for run in reached]),
        "validation_accuracy": _median(
            [run["validation_accuracy"] for run in runs if run["validation_accuracy"] is not None]
        ),
        "peak_bytes": peak,
        "baseline_bytes": baseline,
        "above_baseline_bytes": None if peak is None or baseline is None else peak - baseline,
    }


def _run(run: Mapping[str, Any], target: float | None) -> dict[str, Any]:
    step, seconds, accuracy = first_within(run["curve"], target) or (None, None, None)
    return {**run, "step": step, "seconds_to_quality": seconds, "accuracy_then": accuracy}


def _ratios(row: Mapping[str, Any], plain: Mapping[str, Any], gis: Mapping[str, Any] | None) -> dict[str, Any]:
    """How many times as long both GIS take until they end as this one's time to quality; of GIS itself, as its end."""
    counted = row["seconds_to_quality"] if row["method"] in LEARNED else row["seconds"]
    share = _ratio(row["above_baseline_bytes"], plain["above_baseline_bytes"])
    return {
        "plain_gis_over_it": _ratio(plain["seconds"], counted),
        "our_gis_over_it": _ratio(gis["seconds"] if gis else None, counted),
        "plain_gis_over_its_end": _ratio(plain["seconds"], row["seconds"]),
        "memory_reduction": None if share is None else 1.0 - share,
    }


def _median(values: Sequence[float]) -> float | None:
    """None where there are no values, or so many are infinite that the median is."""
    middle = median(values) if values else math.inf
    return middle if math.isfinite(middle) else None


def _range(times: Sequence[float | None]) -> list[float | None]:
    """Shortest and longest; None is never."""
    known = [time for time in times if time is not None]
    return [min(known, default=None), None if len(known) < len(times) else max(known, default=None)]


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
