"""Results as a JSON document, and that document as a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from gnnsoup_hpc import __version__
from gnnsoup_hpc.bench.arguments import WAYS
from gnnsoup_hpc.bench.grid import Row
from gnnsoup_hpc.bench.process import Figures
from gnnsoup_hpc.bench.roofline import Rates
from gnnsoup_hpc.utils.text_table import pipe_columns, show_number

_LIBRARIES = {"torch": "torch", "pyg": "torch-geometric", "numpy": "numpy", "numba": "numba"}
_HEAD = (
    *("model, task", "ours s", "spread", "stock s", "spread", "stock/ours"),
    *("ours MB", "stock MB", "stock/ours", "ours/bound"),
)
# A loss is an average, so errors of 1 % in all weights move it by 2e-4; an accuracy moves by whole nodes.
_TOLERANCE = {
    "loss": {"float32": 1e-5, "bfloat16": 3e-2},
    "accuracy": {"float32": 1e-3, "bfloat16": 3e-2},
    "training": {"float32": 5e-2, "bfloat16": 5e-2},  # masks of dropout and orders of batches differ
}
_RETURNED = {"ls_epoch": "loss", "pls_step": "loss", "train_epoch": "training"}
NOTES = """\
Seconds: median over all repeats of one evaluation, epoch or step, and (max - min) / median of them. MB: 1e6 bytes of
peak host memory above the baseline, loading the graph included. Bound: the least time that the machine's measured rates
allow for what the validation nodes, or in training the training nodes, depend on."""


def describe_machine(threads: int) -> dict[str, Any]:
    """Where and with what it was measured."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gnnsoup_hpc": __version__,
        "versions": {name: metadata.version(package) for name, package in _LIBRARIES.items()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def make_document(
    about: Mapping[str, Any], rates: Mapping[str, Rates], rows: Sequence[Row], bounds: Sequence[float]
) -> dict[str, Any]:
    """Everything that was measured, of nothing but what JSON has. `rates` are by precision, `bounds` by row."""
    return {
        "format": "gnnsoup_hpc/bench",
        "format_version": 1,
        "machine": dict(about),
        "rates": {precision: asdict(rate) for precision, rate in rates.items()},
        "cells": [_cell(row, bound) for row, bound in zip(rows, bounds, strict=True)],
    }


def show_document(results: Mapping[str, Any]) -> str:
    """The table that people read, one a graph."""
    where, cells = results["machine"], results["cells"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads; {versions}; {where['date']}"]
    lines += [
        f"{precision}: copy {rate['bytes_per_second'] / 1e9:.1f} GB/s, hidden layer's product"
        f" {rate['flops_per_second'] / 1e9:.0f} GFLOP/s"
        for precision, rate in results["rates"].items()
    ]
    for graph in dict.fromkeys(cell["cell"]["graph"] for cell in cells):
        rows = (_row(cell) for cell in cells if cell["cell"]["graph"] == graph)
        lines += ["", f"### {graph}", "", *pipe_columns(_HEAD, rows)]
    lines += ["", NOTES]
    lines += [f"{cell['name']}: ours and stock differ by {cell['difference']:.2g}" for cell in cells if _differs(cell)]
    failures = ((cell["name"], way, error) for cell in cells for way in WAYS[::-1] for error in cell[way]["errors"])
    lines += [f"{name}, {way}: {error}" for name, way, error in failures]
    return "\n".join(lines)


def _cell(row: Row, bound: float) -> dict[str, Any]:
    ours, stock = _figures(row.ours), _figures(row.stock)
    pairs = zip(ours["values"], stock["values"], strict=False)
    return {
        "name": row.cell.name,
        "title": f"{row.cell.model} {row.cell.title}",
        "cell": asdict(row.cell),
        "ours": ours,
        "stock": stock,
        "speed_ratio": divide(stock["median"], ours["median"]),
        "memory_ratio": divide(stock["above_baseline_bytes"], ours["above_baseline_bytes"]),
        # The largest of what both ways returned, repeat by repeat, relative where it is above 1.
        "difference": max((abs(a - b) / max(1.0, abs(b)) for a, b in pairs), default=None),
        "bound_seconds": bound,
        "over_bound": divide(ours["median"], bound),
    }


def _figures(figures: Figures) -> dict[str, Any]:
    times, memory = figures.times, figures.memory
    seconds = [each for result in times for each in result["seconds"]]
    middle = median(seconds) if seconds else None
    return {
        "seconds": seconds,
        "prepare_seconds": [result["prepare_seconds"] for result in times],
        "values": times[0]["values"] if times else [],  # of the first process; the others start from the same
        **{name: memory.get(name) for name in ("peak_bytes", "prepare_peak_bytes", "baseline_bytes")},
        "errors": figures.errors,
        "median": middle,
        "min": min(seconds, default=None),
        "spread": divide(max(seconds) - min(seconds), middle) if seconds else None,
        "above_baseline_bytes": figures.above_baseline_bytes,
    }


def _differs(cell: Mapping[str, Any]) -> bool:
    difference = cell["difference"]
    returned = _RETURNED.get(cell["cell"]["task"], "accuracy")
    return difference is not None and not difference <= _TOLERANCE[returned][cell["cell"]["precision"]]


def divide(value: float | None, reference: float | None) -> float | None:
    """A ratio; None where one of the two is not known, or the reference is 0."""
    return None if value is None or not reference else value / reference


def _row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    ours, stock = cell["ours"], cell["stock"]
    return (
        cell["title"],
        *(text for way in (ours, stock) for text in (_show(way, "median", ".4g"), show_number(way["spread"], ".0%"))),
        show_number(cell["speed_ratio"], ".2f"),
        *(_show(way, "above_baseline_bytes", ".1f", 1e6) for way in (ours, stock)),
        show_number(cell["memory_ratio"], ".2f"),
        show_number(cell["over_bound"], ".1f"),
    )


def _show(way: Mapping[str, Any], name: str, form: str, unit: float = 1.0) -> str:
    return "failed" if way[name] is None and way["errors"] else show_number(divide(way[name], unit), form)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
