"""The table that people read."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from statistics import mean, stdev

from gnnsoup_hpc.analysis.diagnosis.basin import list_midpoints
from gnnsoup_hpc.analysis.report import contents
from gnnsoup_hpc.analysis.report.answer import find_answer
from gnnsoup_hpc.analysis.report.contents import Contents, Phase, TriedTrial
from gnnsoup_hpc.analysis.report.recomputed import list_recomputed
from gnnsoup_hpc.analysis.report.verdicts import verdicts
from gnnsoup_hpc.config.task import WORDS
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.models.kinds import describe_model
from gnnsoup_hpc.runtime.profiling import subtract_baseline
from gnnsoup_hpc.types import MetricName
from gnnsoup_hpc.utils.text_table import align_columns, show_number, show_ratio

_HEAD = (
    "method",
    "validation",
    "test",
    "seconds",
    "seconds/gis",
    "peak MiB",
    "peak/gis",
    "forward",
    "backward",
    "models",
)
_OTHERS: dict[str, MetricName] = {"test_roc_auc": "roc_auc", "test_average_precision": "average_precision"}


def show_run(run: Contents) -> str:
    """The run's results as text."""
    model = run.job.model
    tests = [ingredient.test_accuracy for ingredient in run.ingredients]
    validations = [ingredient.validation_accuracy for ingredient in run.ingredients]
    named = "" if run.task.counts_hits else f"{run.metric}, "
    spreads = f"{named}validation {show_spread(validations)}, test {show_spread(tests)}"
    return "\n".join(
        [
            f"{run.run.root}: {describe_model(model)}, on {run.graph}",
            find_answer(run).sentence,
            f"{len(run.ingredients)} ingredients: {spreads} (mean ± standard deviation)",
            *([_list_engines(run)] if len(run.engines) > 1 else []),
            *([f"split: {run.split}"] if run.split else []),
            *run.notes,
            *([run.alignment.text] if run.alignment else []),
            "",
            *_list_methods(run),
            *list_recomputed(run),
            *list_trials(run.trials),
            "",
            *align_columns([("phase", "seconds", "peak MiB"), *map(_phase_row, run.phases)]),
            "",
            "peak: host memory above where the method or phase began; of methods on rank 0, of phases the highest.",
            "forward, backward: passes over the whole graph while souping. models: forward passes of one prediction;",
            f"ensemble: no souping cost, {len(run.ingredients)} x inference cost.",
            "seconds of train and soup: sums over ingredients and over methods.",
            f"{run.task.guess_words}: what is as good without a look at any node.",
            *([] if run.task.counts_hits else [f"validation, test: {run.metric}."]),
            *(["", *list_midpoints(run.diagnosis, run.task), ""] if run.diagnosis and run.diagnosis.variants else []),
            *verdicts(run),
        ]
    )


def _list_engines(run: Contents) -> str:
    """Which ingredients are of which engine, of a run that has several."""
    of = {engine: [f"{one.index:04d}" for one in run.ingredients if one.engine == engine] for engine in run.engines}
    named = "; ".join(f"{engine}: {', '.join(names)}" for engine, names in of.items())
    return f"trained by several engines, which draw dropout differently: {named}"


def show_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"


def _list_methods(run: Contents) -> list[str]:
    """A row a method, and what looks at no node; metrics beside accuracy at the end."""
    others = [name for name in _OTHERS if any(name in soup.judged.others for soup in run.soups)]
    base = run.task.guess_words, *(f"{run.baseline[role]:.4f}" for role in ("validation", "test")), *[""] * 7
    share = run.test_classes[1] / run.test_nodes if others else nan
    of_base = {"test_roc_auc": 0.5, "test_average_precision": share}
    rows = [
        (*_HEAD, *(f"test {WORDS[_OTHERS[name]]}" for name in others)),
        (*base, *(f"{of_base[name]:.4f}" for name in others)),
        *(
            (*_row(run, soup), *(show_number(soup.judged.others.get(name), ".4f") for name in others))
            for soup in run.soups
        ),
    ]
    return list(map(str.rstrip, align_columns(rows)))


def _row(run: Contents, soup: Soup) -> tuple[str, ...]:
    gis = run.soup("gis")
    spent, peak = soup.measurement["seconds"], subtract_baseline(soup.measurement)
    return (
        soup.method,
        f"{soup.validation_accuracy:.4f}",
        f"{soup.test_accuracy:.4f}",
        f"{spent:.2f}",
        show_ratio(spent, gis.measurement["seconds"] if gis else nan),
        show_number(peak / 2**20, ".1f"),
        show_ratio(peak, subtract_baseline(gis.measurement) if gis else nan),
        _passes(soup, "forward"),
        _passes(soup, "backward"),
        str(contents.count_models(soup)),
    )


def _phase_row(phase: Phase) -> tuple[str, ...]:
    peak = phase.peak_host_bytes - phase.baseline_host_bytes
    return phase.name, show_number(phase.seconds, ".2f"), show_number(peak / 2**20, ".1f")


def _passes(soup: Soup, kind: str) -> str:
    """Passes over the whole graph, or over unions of parts."""
    whole, union = soup.counts[f"{kind}_whole"], soup.counts[f"{kind}_union"]
    return f"{union} unions" if union else str(whole)


def list_trials(rows: Sequence[TriedTrial]) -> list[str]:
    """What people read of the sweeps; nothing without one."""
    found: list[str] = []
    for method in dict.fromkeys(row.trial.method for row in rows):
        own = [row for row in rows if row.trial.method == method]
        found += ["", f"sweep of {method}: {len(own)} combinations; * = its soup, the best on validation"]
        head = ("", *own[0].trial.values, "validation", "test", "seconds", "peak MiB")
        found += align_columns([head, *(_make_trial_row(row) for row in own)])
        if groups := contents.group_by_seeds(own):
            found += ["", f"{method} over seeds: mean ± standard deviation"]
            seeds = (_make_seed_row(combination, soups) for (_, combination), soups in groups.items())
            found += align_columns([("combination", "seeds", "validation", "test"), *seeds])
    return found


def _make_trial_row(row: TriedTrial) -> tuple[str, ...]:
    values = [f"{value}" for value in row.trial.values.values()]
    if row.soup is None:
        return ("", *values, "failed", "-", "-", "-")
    peak, seconds = subtract_baseline(row.soup.measurement), row.soup.measurement["seconds"]
    accuracies = f"{row.soup.validation_accuracy:.4f}", f"{row.soup.test_accuracy:.4f}"
    return ("*" if row.selected else "", *values, *accuracies, f"{seconds:.2f}", f"{peak / 2**20:.1f}")


def _make_seed_row(combination: str, soups: Sequence[Soup]) -> tuple[str, ...]:
    spreads = (contents.compute_spread(soups, role) for role in ("validation", "test"))
    return combination or "-", str(len(soups)), *(f"{middle:.4f} ± {away:.4f}" for middle, away in spreads)
