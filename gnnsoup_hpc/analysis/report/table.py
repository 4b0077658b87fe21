"""The table that people read."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import mean, stdev

from gnnsoup_hpc.analysis.report.cells import lines
from gnnsoup_hpc.analysis.report.layout import align_columns
from gnnsoup_hpc.analysis.report.midpoints import list_midpoints
from gnnsoup_hpc.analysis.report.rows import Contents, models_at_inference
from gnnsoup_hpc.analysis.report.words import verdicts
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.models.convolutions import find_convolution
from gnnsoup_hpc.runtime.profiling import subtract_baseline

_HEAD = ("method", "validation", "test", "seconds", "x gis", "peak MiB", "x gis", "forward", "backward", "models")


def table(run: Contents) -> str:
    """The run's results as text."""
    model = run.job.model
    tests = [ingredient.test_accuracy for ingredient in run.ingredients]
    validations = [ingredient.validation_accuracy for ingredient in run.ingredients]
    heads = f", {model.heads} heads" if find_convolution(model.kind).has_heads else ""
    return "\n".join(
        [
            f"{run.run.root}: {model.kind}, {model.layers} layers, hidden {model.hidden}{heads}, on {run.graph}",
            f"{len(run.ingredients)} ingredients: validation {spread(validations)}, test {spread(tests)}"
            " (mean ± standard deviation)",
            *([f"split: {run.split}"] if run.split else []),
            *run.notes,
            *([run.units] if run.units else []),
            "",
            *align_columns([_HEAD, *(_row(run, soup) for soup in run.soups)]),
            *lines(run.cells),
            "",
            *align_columns([("phase", "seconds", "peak MiB"), *_phases(run)]),
            "",
            "peak: host memory above where the method or phase began; of methods on rank 0, of phases the highest.",
            "forward, backward: passes over the whole graph while souping. models: forward passes of one prediction;",
            f"ensemble: no souping cost, {len(run.ingredients)} x inference cost.",
            "seconds of train and soup: sums over ingredients and over methods.",
            *_diagnosed(run),
            *verdicts(run),
        ]
    )


def _diagnosed(run: Contents) -> list[str]:
    if run.diagnosis is None or not run.diagnosis.lineups:
        return []
    return ["", *list_midpoints(run.diagnosis), ""]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"


def _row(run: Contents, soup: Soup) -> tuple[str, ...]:
    gis = run.soup("gis")
    spent, peak = soup.measurement["seconds"], subtract_baseline(soup.measurement)
    return (
        soup.method,
        f"{soup.validation_accuracy:.4f}",
        f"{soup.test_accuracy:.4f}",
        f"{spent:.2f}",
        _ratio(spent, gis.measurement["seconds"] if gis else float("nan")),
        _mebibytes(peak),
        _ratio(peak, subtract_baseline(gis.measurement) if gis else float("nan")),
        _passes(soup, "forward"),
        _passes(soup, "backward"),
        str(models_at_inference(soup)),
    )


def _phases(run: Contents) -> list[tuple[str, ...]]:
    return [
        (phase.name, _seconds(phase.seconds), _mebibytes(phase.peak_host_bytes - phase.baseline_host_bytes))
        for phase in run.phases
    ]


def _passes(soup: Soup, kind: str) -> str:
    """Passes over the whole graph, or over unions of parts."""
    whole, union = soup.counts[f"{kind}_whole"], soup.counts[f"{kind}_union"]
    return f"{union} unions" if union else str(whole)


def _seconds(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "-"


def _ratio(value: float, reference: float) -> str:
    return f"{value / reference:.3f}" if isfinite(value) and isfinite(reference) and reference > 0 else "-"


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:.1f}" if isfinite(value) else "-"
