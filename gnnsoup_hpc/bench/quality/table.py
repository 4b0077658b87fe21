"""The document as the table that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gnnsoup_hpc.bench.quality.order import LEARNED, PLAIN

_HEAD = (
    "method",
    "s in all",
    "s to quality",
    "range",
    "reached",
    "step",
    "val. then",
    "val. at the end",
    "plain GIS / it",
    "our GIS / it",
    "MB",
    "less than plain",
)
NOTES = """\
s in all: wall time from cold, reading ingredients and graph included. s to quality: until the soup's exact validation
accuracy is first no more than 0.1 points below what GIS ends with; alphas are judged when the clock has stopped. Over
several seeds: medians. The two ratios are what GIS takes in all over the s to quality (of GIS itself, over its s in
all). MB: 1e6 bytes of peak host memory above the baseline, of a pass of its own; of plain GIS, reading and one
evaluation."""


def markdown(results: Mapping[str, Any]) -> str:
    """The head, the table, and what must be said about it."""
    return "\n".join([*_head(results), "", *_piped(results), "", NOTES, *_remarks(results)])


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    where, run = results["machine"], results["run"]
    model = run["model"]
    yield f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads; {where['date']}"
    yield (
        f"{run['job']}: {run['graph']}, {run['nodes']} nodes, {run['edges']} directed entries, {run['parts']} parts,"
        f" {run['validation_nodes']} validation nodes; {model['kind']}, {model['layers']} layers, hidden"
        f" {model['hidden']}; {run['ingredients']} ingredients, {run['evaluations']} evaluations by GIS"
    )


def _piped(results: Mapping[str, Any]) -> Iterator[str]:
    rows = [_HEAD, tuple("---" if column == 0 else "---:" for column in range(len(_HEAD)))]
    rows += [_row(row, results) for row in results["methods"]]
    return (f"| {' | '.join(row)} |" for row in rows)


def _row(row: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, ...]:
    failed = row["errors"] and not row["runs"]
    end = results["target"] if is_extrapolated(row) else row["validation_accuracy"]
    star = "*" if is_extrapolated(row) else ""
    above = row["above_baseline_bytes"]
    return (
        _title(row["method"]),
        "failed" if failed else _shown(row["seconds"], ".2f") + star,
        "-" if failed or count_unjudged(row, results) else _or_never(row["seconds_to_quality"]),
        _range(row),
        f"{row['reached']} of {len(row['runs'])}" if row["method"] in LEARNED else "-",
        _shown(row["step"], "g"),
        _shown(row["accuracy_then"], ".4f"),
        _shown(end, ".4f") + star,
        _shown(row["plain_gis_over_it"], ".1f"),
        _shown(row["our_gis_over_it"], ".1f"),
        _shown(None if above is None else above / 1e6, ".1f"),
        _shown(row["memory_reduction"], ".0%"),
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
            yield _extrapolated(row)
        if row["method"] in LEARNED and row["runs"] and target is not None and row["reached"] < len(row["runs"]):
            never = len(row["runs"]) - row["reached"]
            yield f"{row['method']}: not within 0.1 points of GIS at any judged step in {never} of {len(row['runs'])}."
        yield from (f"{_title(row['method'])}: {error}" for error in row["errors"])


def _extrapolated(row: Mapping[str, Any]) -> str:
    (run,) = row["runs"]
    return (
        f"* extrapolated from {len(run['evaluation_seconds'])} of {run['evaluations']} evaluations, the others as long"
        " as the median of these; its accuracy is that of our GIS, which computes the same."
    )


def is_extrapolated(row: Mapping[str, Any]) -> bool:
    """Whether not all evaluations of plain GIS were timed."""
    runs = row["runs"] if row["method"] == PLAIN else []
    return any(len(run["evaluation_seconds"]) < run["evaluations"] for run in runs)


def count_unjudged(row: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    """Whether there is no telling when a method got there."""
    return results["target"] is None or not any(run["curve"] for run in row["runs"])


def _title(method: str) -> str:
    return "plain GIS" if method == PLAIN else method


def _range(row: Mapping[str, Any]) -> str:
    if len(row["runs"]) < 2:
        return "-"
    return " to ".join(_or_never(value) for value in row["seconds_to_quality_range"])


def _or_never(value: float | None) -> str:
    return "never" if value is None else format(value, ".2f")


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
