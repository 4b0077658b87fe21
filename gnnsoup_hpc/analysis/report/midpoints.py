"""The table of a diagnosis that people read."""

from __future__ import annotations

from gnnsoup_hpc.analysis.diagnosis.basin import Barrier, compute_barriers, compute_mean_barrier
from gnnsoup_hpc.analysis.report.layout import align_columns
from gnnsoup_hpc.io.records import Diagnosis

_COLUMNS = ("midpoint", "fall", "±", "rise", "in basin")


def list_midpoints(found: Diagnosis) -> list[str]:
    """Lines: each ingredient alone, and its midpoint with the best one, for each way to line ingredients up."""
    ways = found.lineups
    head = ("ingredient", "accuracy", "loss", *(cell for _ in ways for cell in _COLUMNS))
    over = ("", "", "", *(cell for way in ways for cell in (way.lineup, "", "", "", "")))
    rows = [_row(found, ingredient.name) for ingredient in found.ingredients]
    lines = align_columns([over, head, *rows, _last(found)])
    return [
        f"midpoints with the best ingredient, {found.best}, on {found.nodes} validation nodes:",
        *(line.rstrip() for line in lines),
        "fall: accuracy below, rise: loss (nats) above the mean of the two ends; ±: twice the binomial error of fall.",
    ]


def _row(found: Diagnosis, name: str) -> tuple[str, ...]:
    alone = found.named(name).alone
    cells: list[str] = []
    for way in found.lineups:
        told = {barrier.name: barrier for barrier in compute_barriers(found, way)}
        cells += _cells(told[name]) if name in told else ["best", "", "", "", ""]
    return name, f"{alone.accuracy:.4f}", f"{alone.loss:.4f}", *cells


def _last(found: Diagnosis) -> tuple[str, ...]:
    return "mean of all", "", "", *(cell for way in found.lineups for cell in _cells(compute_mean_barrier(found, way)))


def _cells(barrier: Barrier) -> list[str]:
    return [
        f"{barrier.mean.accuracy:.4f}",
        f"{barrier.fall:+.4f}",
        f"{2 * barrier.error:.4f}",
        f"{barrier.loss:+.4f}",
        "yes" if barrier.in_basin else "NO",
    ]
