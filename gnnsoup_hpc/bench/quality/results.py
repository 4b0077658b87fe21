"""What the children measured as a JSON document, and that as a table: when each run first had GIS's accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from gnnsoup_hpc.bench.process import Figures
from gnnsoup_hpc.bench.table import divide
from gnnsoup_hpc.bench.task import LEARNED, PLAIN, keep_finite
from gnnsoup_hpc.utils.text_table import pipe_columns, show_number

_HEAD = (
    *("method", "s in all", "s to quality", "range", "reached", "step", "val. then", "val. at the end"),
    *("plain GIS / it", "our GIS / it", "MB", "less than plain"),
)
NOTES = """\
s in all: wall time from cold, reading ingredients and graph included. s to quality: until the soup's exact validation
accuracy is first no more than 0.1 points below what GIS ends with; alphas are judged when the clock has stopped. Over
several seeds: medians. The two ratios are what GIS takes in all over the s to quality (of GIS itself, over its s in
all). MB: 1e6 bytes of peak host memory above the baseline, of a pass of its own; of plain GIS, reading and one
evaluation."""
WITHIN = 0.001  # 0.1 points
_ROUNDING = 1e-9  # of a difference of two shares


def make_document(about: Mapping[str, Any], machine: Mapping[str, Any], found: Mapping[str, Figures]) -> dict[str, Any]:
    """Everything that was measured, of nothing but what JSON has."""
    target = find_target(found)
    rows = {method: _row(method, figures, target) for method, figures in found.items()}
    for row in rows.values():
        row |= _ratios(row, rows[PLAIN], rows.get("gis"))
    return {
        "format": "gnnsoup_hpc/quality",
        "format_version": 1,
        "machine": dict(machine),
        "run": dict(about),
        "target": target,
        "within": WITHIN,
        "methods": list(rows.values()),
    }


def find_target(found: Mapping[str, Figures]) -> float | None:
    """GIS's validation accuracy; should rounding set plain GIS and ours apart, the higher one."""
    ends = [run["validation_accuracy"] for what, one in found.items() if what not in LEARNED for run in one.times]
    return max((end for end in ends if end is not None), default=None)


def first_within(curve: Iterable[Sequence[float]], target: float | None) -> Sequence[float] | None:
    """The first [step, seconds, accuracy] that is no more than 0.1 points below the target; None if there is none."""
    if target is None:
        return None
    return next((point for point in curve if point[2] >= target - WITHIN - _ROUNDING), None)


def _row(method: str, found: Figures, target: float | None) -> dict[str, Any]:
    judged = ("step", "seconds_to_quality", "accuracy_then")
    runs = [
        {**run, **dict(zip(judged, first_within(run["curve"], target) or (None, None, None), strict=True))}
        for run in found.times
    ]
    reached = [run for run in runs if run["seconds_to_quality"] is not None]
    times = [run["seconds_to_quality"] for run in reached] + [math.inf] * (len(runs) - len(reached))
    ends = [run["validation_accuracy"] for run in runs if run["validation_accuracy"] is not None]
    return {
        "method": method,
        "runs": runs,
        "errors": found.errors,
        "seconds": _finite_median([run["seconds"] for run in runs]),
        "seconds_to_quality": _finite_median(times),
        "seconds_to_quality_range": [keep_finite(each(times, default=math.inf)) for each in (min, max)],
        "reached": len(reached),
        "step": _finite_median([run["step"] for run in reached]),
        "accuracy_then": _finite_median([run["accuracy_then"] for run in reached]),
        "validation_accuracy": _finite_median(ends),
        **{name: found.memory.get(name) for name in ("peak_bytes", "baseline_bytes")},
        "above_baseline_bytes": found.above_baseline_bytes,
    }


def _ratios(row: Mapping[str, Any], plain: Mapping[str, Any], gis: Mapping[str, Any] | None) -> dict[str, Any]:
    """How many times as long both GIS take until they end as this one's time to quality; of GIS itself, as its end."""
    counted = row["seconds_to_quality"] if row["method"] in LEARNED else row["seconds"]
    share = divide(row["above_baseline_bytes"], plain["above_baseline_bytes"])
    return {
        "plain_gis_over_it": divide(plain["seconds"], counted),
        "our_gis_over_it": divide(gis["seconds"] if gis else None, counted),
        "plain_gis_over_its_end": divide(plain["seconds"], row["seconds"]),
        "memory_reduction": None if share is None else 1.0 - share,
    }


def _finite_median(values: Sequence[float]) -> float | None:
    """None where there are no values, or so many are infinite that the median is."""
    return keep_finite(median(values)) if values else None


def show_document(results: Mapping[str, Any]) -> str:
    """The head, the table, and what must be said about it."""
    where, run, model = results["machine"], results["run"], results["run"]["model"]
    about = f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads; {where['date']}"
    measured = (
        f"{run['job']}: {run['graph']}, {run['nodes']} nodes, {run['edges']} directed entries, {run['parts']} parts,"
        f" {run['validation_nodes']} validation nodes; {model['kind']}, {model['layers']} layers, hidden"
        f" {model['hidden']}; {run['ingredients']} ingredients, {run['evaluations']} evaluations by GIS"
    )
    table = pipe_columns(_HEAD, (_cells(row, results) for row in results["methods"]))
    return "\n".join([about, measured, "", *table, "", NOTES, *_remarks(results)])


def _cells(row: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, ...]:
    failed = row["errors"] and not row["runs"]
    end = results["target"] if is_extrapolated(row) else row["validation_accuracy"]
    star = "*" if is_extrapolated(row) else ""
    judged = results["target"] is not None and any(run["curve"] for run in row["runs"])
    several = len(row["runs"]) > 1
    return (
        _title(row["method"]),
        "failed" if failed else show_number(row["seconds"], ".2f") + star,
        "-" if failed or not judged else _or_never(row["seconds_to_quality"]),
        " to ".join(map(_or_never, row["seconds_to_quality_range"])) if several else "-",
        f"{row['reached']} of {len(row['runs'])}" if row["method"] in LEARNED else "-",
        show_number(row["step"], "g"),
        show_number(row["accuracy_then"], ".4f"),
        show_number(end, ".4f") + star,
        show_number(row["plain_gis_over_it"], ".1f"),
        show_number(row["our_gis_over_it"], ".1f"),
        show_number(divide(row["above_baseline_bytes"], 1e6), ".1f"),
        show_number(row["memory_reduction"], ".0%"),
    )


def _remarks(results: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    target = results["target"]
    yield "GIS's validation accuracy is not known." if target is None else f"GIS's validation accuracy: {target:.4f}."
    for row in results["methods"]:
        if row["method"] == "gis" and row["runs"]:
            yield f"The best ingredient's, with which GIS begins: {row['runs'][0]['curve'][0][2]:.4f}."
    for row in results["methods"]:
        if is_extrapolated(row):
            (run,) = row["runs"]
            yield (
                f"* extrapolated from {len(run['evaluation_seconds'])} of {run['evaluations']} evaluations, the others"
                " as long as the median of these; its accuracy is that of our GIS, which computes the same."
            )
        if row["method"] in LEARNED and row["runs"] and target is not None and row["reached"] < len(row["runs"]):
            never = len(row["runs"]) - row["reached"]
            yield f"{row['method']}: not within 0.1 points of GIS at any judged step in {never} of {len(row['runs'])}."
        yield from (f"{_title(row['method'])}: {error}" for error in row["errors"])


def is_extrapolated(row: Mapping[str, Any]) -> bool:
    """Whether not all evaluations of plain GIS were timed."""
    runs = row["runs"] if row["method"] == PLAIN else []
    return any(len(run["evaluation_seconds"]) < run["evaluations"] for run in runs)


def _title(method: str) -> str:
    return "plain GIS" if method == PLAIN else method


def _or_never(value: float | None) -> str:
    return "never" if value is None else format(value, ".2f")
