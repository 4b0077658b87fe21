"""The figures of a run: each a function of what the run's files hold, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, nan
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from gnnsoup_hpc.analysis.report.answer import BEST
from gnnsoup_hpc.analysis.report.comparison import compare_with_best
from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.analysis.report.page.style import (
    BLUE,
    GREEN,
    MUTED,
    RED,
    SERIES,
    SETTINGS,
    SHORT,
    WIDTH,
    find_colour,
    find_marker,
)
from gnnsoup_hpc.analysis.report.page.timeline import Timeline
from gnnsoup_hpc.config import parse_bytes
from gnnsoup_hpc.config.task import WORDS
from gnnsoup_hpc.io.records import Diagnosis, Midpoints, Soup
from gnnsoup_hpc.runtime.profiling import subtract_baseline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_COST = 1e-3  # seconds, or MiB
MOST_ROWS = 80  # of shares, and of ranks
MOST_NUMBERS = 12  # ingredients whose shares are written too
MOST_LETTERS = 32  # of a name beside a chart
MOST_MARKED = 60  # points of a line that are marked one by one
MIB = 2**20
PHASES = {"prepare": SERIES[5], "train": SERIES[0], "align": SERIES[4], "sweep": SERIES[6], "soup": SERIES[1]}


@dataclass(frozen=True)
class Chart:
    """A figure of a page. name: of files and elements; about: what is drawn, and how to read it."""

    name: str
    title: str
    about: str
    figure: Figure


def draw_run(run: Contents, timeline: Timeline) -> Iterator[Chart]:
    """All figures for which the run has something to show."""
    for name, (title, draw) in FIGURES.items():
        with rc_context(SETTINGS):
            drawn = draw(run, timeline)
        if drawn is not None:
            about, figure = drawn
            yield Chart(name, title, about, figure)


Drawn = tuple[str, Figure] | None


def _start(height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure of one or several charts, row by row."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def draw_methods(run: Contents, timeline: Timeline) -> Drawn:
    """Test metric of every method, beside the best ingredient and the ensemble."""
    soups = [soup for soup in run.soups if soup.method != BEST]
    if not soups:
        return None
    figure, (axes,) = _start(1.2 + 0.26 * len(soups))
    best, tests = run.best.test_accuracy, [one.test_accuracy for one in run.ingredients]
    axes.axvspan(min(tests), max(tests), color=MUTED, alpha=0.15, linewidth=0)
    axes.axvline(best, color=MUTED, label="best ingredient")
    if (ensemble := run.soup("ensemble")) is not None:
        axes.axvline(ensemble.test_accuracy, color=MUTED, linestyle="--", label="ensemble")
    for row, soup in enumerate(soups):
        found = compare_with_best(run, soup)
        colour = GREEN if found.gains else RED if found.loses else MUTED
        error = found.error if isfinite(found.error) else nan
        axes.errorbar(soup.test_accuracy, row, xerr=error, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(soups)), [soup.method for soup in soups])
    axes.set_ylim(len(soups) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    _name_metric(axes.set_xlabel, run, "test")
    figure.legend(loc="outside upper right", ncols=2)
    about = (
        "Bars: twice the standard error of the difference to the best ingredient, on the same test nodes. Green: better"
        " beyond it; red: worse; grey: not told apart. Strip: from the worst to the best ingredient on test nodes."
    )
    return about, figure


def draw_cost(run: Contents, timeline: Timeline) -> Drawn:
    """Test metric against the cost of souping."""
    figure, (seconds, memory) = _start(3.0, columns=2, sharey=True)
    named = {}
    for soup in run.soups:
        spent, peak = soup.measurement["seconds"], subtract_baseline(soup.measurement) / MIB
        for axes, cost in ((seconds, spent), (memory, peak)):
            if isfinite(cost) and cost > LEAST_COST:
                how: dict[str, Any] = {"color": find_colour(soup.method), "marker": find_marker(soup.method)}
                (named[soup.method],) = axes.plot(cost, soup.test_accuracy, linestyle="", **how)
    for axes, label in ((seconds, "souping, seconds"), (memory, "peak memory above start, MiB")):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
    _name_metric(seconds.set_ylabel, run, "test")
    figure.legend(named.values(), named, loc="outside upper center", ncols=4)
    corner = "Upper" if run.task.higher_is_better else "Lower"
    about = (
        f"{corner} left is best. What took less than a millisecond, or no memory that could be measured, is not drawn."
    )
    return about, figure


def draw_shares(run: Contents, timeline: Timeline) -> Drawn:
    """Alpha: a row a method and group of parameters, a column an ingredient."""
    mixed = [soup for soup in run.soups if soup.mixture.of != "distilled" and soup.method != BEST]
    rows = [
        (soup.method if len(soup.mixture.groups) == 1 else _shorten(f"{soup.method}: {group}"), alpha)
        for soup in mixed
        for group, alpha in zip(soup.mixture.groups, soup.mixture.alpha.tolist(), strict=True)
    ]
    if not rows or len(run.ingredients) == 1:
        return None
    shown = rows[:MOST_ROWS]
    figure, (axes,) = _start(0.9 + 0.2 * len(shown))
    count, most = len(run.ingredients), max(abs(value) for _, alpha in shown for value in alpha)
    for row, (_, alpha) in enumerate(shown):
        for column, value in enumerate(alpha):
            if value:
                how: dict[str, Any] = {
                    "facecolor": BLUE if value > 0 else RED,
                    "alpha": 0.75 * abs(value) / most,
                    "linewidth": 0,
                }
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **how))
            if count <= MOST_NUMBERS:
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7)
    every = ceil(count / 16)
    axes.set_xticks(range(0, count, every), [f"{one.index:04d}" for one in run.ingredients[::every]], fontsize=7)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.set_xlabel("ingredient")
    more = f" The first {MOST_ROWS} of {len(rows)} rows; report.h5 has all." if len(shown) < len(rows) else ""
    signs = " Red: below 0." if any(value < 0 for _, alpha in shown for value in alpha) else ""
    about = f"The share that each ingredient has in a group of parameters; strongest colour: {most:.2f}.{signs}{more}"
    return about, figure


def draw_barriers(run: Contents, timeline: Timeline) -> Drawn:
    """Metric along the line from the best ingredient to each other one, at both ends and halfway."""
    if run.diagnosis is None or not run.diagnosis.variants:
        return None
    ways = run.diagnosis.variants
    figure, charts = _start(2.9, columns=len(ways), sharey=True)
    for axes, way in zip(charts, ways, strict=True):
        _draw_lines(axes, run.diagnosis, way)
        axes.set_title(way.variant)
        axes.set_xticks([0.0, 0.5, 1.0], ["best", "halfway", "other"])
        axes.axhline(way.mean.accuracy, color=RED, linestyle="--", label="mean of all ingredients")
    _name_metric(charts[0].set_ylabel, run, "validation")
    figure.legend(*charts[0].get_legend_handles_labels(), loc="outside upper right")
    bent = "sags" if run.task.higher_is_better else "bulges"
    about = (
        f"From the best ingredient, {run.diagnosis.best}, to each other one: mixtures of their weights, measured at"
        f" both ends and halfway. A line that {bent} is a barrier: what lies behind it is better left out or aligned."
    )
    return about, figure


def _draw_lines(axes: Axes, found: Diagnosis, way: Midpoints) -> None:
    best = found.named(found.best).accuracy
    for name, middle in way.halfway.items():
        ends = best, middle.accuracy, found.named(name).accuracy
        axes.plot((0.0, 0.5, 1.0), ends, color=BLUE, marker="o", markersize=3, alpha=0.6)


def draw_loss(run: Contents, timeline: Timeline) -> Drawn:
    """Loss over the steps of each method that takes a loss."""
    soups = [soup for soup in run.soups if any(isfinite(step.loss) for step in soup.mixture.history)]
    drawn = _draw_steps(soups, "loss")
    if drawn is None:
        return None
    drawn[1][0].set_ylabel("loss")
    return f"Mean loss on each step's nodes. {_explain_steps(soups)}", drawn[0]


def draw_metric(run: Contents, timeline: Timeline) -> Drawn:
    """Metric over steps, or decisions."""
    soups = [soup for soup in run.soups if soup.mixture.history]
    drawn = _draw_steps(soups, "accuracy")
    if drawn is None:
        return None
    _name_metric(drawn[1][0].set_ylabel, run, "")
    greedy = " Greedy and GIS: validation metric after each decision." if run.soup("greedy") or run.soup("gis") else ""
    return (
        f"{run.metric[0].upper()}{run.metric[1:]} on each step's validation nodes.{greedy} {_explain_steps(soups)}",
        drawn[0],
    )


def _explain_steps(soups: Sequence[Soup]) -> str:
    told = {
        "pls": "Points of PLS are not joined: each step has another union of parts.",
        "distil": "A step of distil is an epoch; its metric is that of all validation nodes.",
    }
    return " ".join(text for name, text in told.items() if any(soup.method == name for soup in soups))


def _draw_steps(soups: Sequence[Soup], field: str) -> tuple[Figure, list[Axes]] | None:
    """A small chart a method; points alone where steps are of different nodes."""
    if not soups:
        return None
    rows = ceil(len(soups) / 2)
    figure, charts = _start(0.4 + 1.7 * rows, columns=2, rows=rows)
    for axes, soup in zip(charts, soups, strict=False):
        steps = [step.step for step in soup.mixture.history]
        values = [getattr(step, field) for step in soup.mixture.history]
        apart = soup.mixture.of == "weights" and soup.method == "pls"
        marker = "o" if apart or len(steps) <= MOST_MARKED else ""
        line = "" if apart else "-"
        axes.plot(steps, values, color=find_colour(soup.method), marker=marker, markersize=3, linestyle=line)
        axes.set_title(soup.method)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in charts[len(soups) :]:
        axes.remove()
    return figure, charts[: len(soups)]


def draw_training(run: Contents, timeline: Timeline) -> Drawn:
    """Training loss and validation metric of each ingredient over epochs."""
    trained = [one for one in run.ingredients if one.history]
    if not trained:
        return None
    figure, (loss, metric) = _start(2.8, columns=2)
    for one in sorted(trained, key=lambda one: one is run.best):
        best = one is run.best
        how: dict[str, Any] = {"color": RED if best else BLUE, "alpha": 1.0 if best else 0.35}
        how |= {"linewidth": 1.6 if best else 0.9, "label": f"best, {one.index:04d}" if best else None}
        epochs = [epoch.epoch for epoch in one.history]
        loss.plot(epochs, [epoch.loss for epoch in one.history], **how)
        metric.plot(epochs, [epoch.validation_accuracy for epoch in one.history], **how | {"label": None})
        kept = next((epoch for epoch in one.history if epoch.epoch == one.best_epoch), None)
        if kept is not None:
            metric.plot(kept.epoch, kept.validation_accuracy, marker="o", markersize=3, color=how["color"])
    loss.set_ylabel("training loss")
    _name_metric(metric.set_ylabel, run, "validation")
    for axes in (loss, metric):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.legend(loc="outside upper right")
    without = len(run.ingredients) - len(trained)
    more = f" {without} ingredients have no history." if without else ""
    return f"A line an ingredient; a dot marks the epoch whose weights are kept.{more}", figure


def draw_memory(run: Contents, timeline: Timeline) -> Drawn:
    """Peak resident memory of each piece of work, over time, and the limit."""
    placed = [each for each in timeline.placed if isfinite(each.work.spent["peak_host_bytes"])]
    if not placed:
        return None
    figure, (axes,) = _start(2.8)
    for each in placed:
        spent, colour = each.work.spent, PHASES[each.work.phase]
        corner, width = (each.start, 0.0), each.end - each.start
        peak, start = spent["peak_host_bytes"] / MIB, spent["baseline_host_bytes"] / MIB
        axes.add_patch(Rectangle(corner, width, peak, facecolor=colour, alpha=0.25, linewidth=0))
        axes.hlines(peak, each.start, each.end, color=colour)
        axes.hlines(start, each.start, each.end, color=colour, linestyle=":", linewidth=1)
    limit = parse_bytes(run.job.machine.memory_limit)
    if limit is not None:
        axes.axhline(limit / MIB, color=RED, linestyle="--", label="machine.memory_limit")
    axes.set_ylim(0, 1.08 * max(*(each.work.spent["peak_host_bytes"] / MIB for each in placed), (limit or 0) / MIB))
    _mark_gaps(axes, timeline)
    axes.set_ylabel("resident memory of a rank, MiB")
    _name_phases(figure, timeline, axes)
    about = "Lines: the highest resident memory of each piece of work, libraries included; dotted: where it began."
    return f"{about}{_explain_gaps(timeline)}", figure


def draw_timeline(run: Contents, timeline: Timeline) -> Drawn:
    """Who did what, when."""
    rows = timeline.list_rows()
    if not rows:
        return None
    shown = rows[:MOST_ROWS]
    figure, (axes,) = _start(1.2 + 0.28 * len(shown))
    whole = max(each.end for each in timeline.placed)
    for row, (_, placed) in enumerate(shown):
        for each in placed:
            width = each.end - each.start
            how: dict[str, Any] = {"facecolor": PHASES[each.work.phase], "edgecolor": "none", "alpha": 0.75}
            axes.add_patch(Rectangle((each.start, row - 0.36), width, 0.72, **how))
            if width > 0.02 * len(each.work.what) * whole:
                middle = each.start + width / 2
                axes.text(middle, row, each.work.what, ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), [_shorten(name) for name, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    _mark_gaps(axes, timeline)
    _name_phases(figure, timeline)
    more = f" The first {MOST_ROWS} of {len(rows)} ranks." if len(shown) < len(rows) else ""
    about = "When each file of the run was made, and by which rank; training that was resumed is drawn as one piece."
    return f"{about}{_explain_gaps(timeline)}{more}", figure


def _mark_gaps(axes: Axes, timeline: Timeline) -> None:
    for where, _ in timeline.gaps:
        axes.axvline(where, color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlim(0, max(each.end for each in timeline.placed))
    axes.set_xlabel("seconds of work")


def _explain_gaps(timeline: Timeline) -> str:
    idle = sum(seconds for _, seconds in timeline.gaps)
    if not timeline.gaps:
        return ""
    count = len(timeline.gaps)
    return f" At {count} dotted line{'s' if count > 1 else ''} time without work is left out, {idle:.0f} s in all."


def _name_phases(figure: Figure, timeline: Timeline, axes: Axes | None = None) -> None:
    there = {each.work.phase for each in timeline.placed}
    patches: list[Any] = [Patch(color=colour, label=name) for name, colour in PHASES.items() if name in there]
    more = axes.get_legend_handles_labels()[0] if axes is not None else []
    figure.legend(handles=[*patches, *more], loc="outside upper right", ncols=6)


def draw_comparison(runs: Sequence[Contents]) -> Chart | None:
    """What each method of several runs gains over the best ingredient; None where their metrics differ."""
    if len({run.task.name for run in runs}) > 1:
        return None
    methods = list(dict.fromkeys(soup.method for run in runs for soup in run.soups if soup.method != BEST))
    with rc_context(SETTINGS):
        figure, (axes,) = _start(1.2 + 0.12 * len(methods) * (len(runs) + 1))
        axes.axvline(0.0, color=MUTED)
        for number, run in enumerate(runs):
            for row, method in enumerate(methods):
                if (soup := run.soup(method)) is None:
                    continue
                found = compare_with_best(run, soup)
                place = row + 0.8 * ((number + 0.5) / len(runs) - 0.5)
                how: dict[str, Any] = {
                    "color": SERIES[number % len(SERIES)],
                    "markersize": 4,
                    "capsize": 2,
                    "linewidth": 1,
                }
                label = _shorten(str(run.run.root)) if row == 0 else None
                unit = 100.0 if run.task.show(1.0).endswith("points") else 1.0
                error = unit * found.error if isfinite(found.error) else nan
                axes.errorbar(unit * found.difference, place, xerr=error, fmt="o", label=label, **how)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.set_xlabel("gain over the run's best ingredient" + (", points" if unit == 100.0 else ""))
        figure.legend(loc="outside upper left", ncols=1)
    about = "Bars: twice the standard error of the difference, on the same test nodes. Beyond 0 with its bar: better."
    return Chart("comparison", "Gains of all runs", about, figure)


def _shorten(name: str) -> str:
    """A name beside a chart: its end, where it is long."""
    return name if len(name) <= MOST_LETTERS else f"…{name[1 - MOST_LETTERS :]}"


def _name_metric(put: Callable[[str], Any], run: Contents, of: str) -> None:
    lower = "" if run.task.higher_is_better else ", lower is better"
    put(f"{of} {SHORT.get(run.task.name, WORDS[run.task.name])}{lower}".strip())


FIGURES: dict[str, tuple[str, Callable[[Contents, Timeline], Drawn]]] = {
    "methods": ("Methods beside the best ingredient", draw_methods),
    "cost": ("Test metric against cost", draw_cost),
    "shares": ("Shares of ingredients", draw_shares),
    "barriers": ("Barriers between ingredients", draw_barriers),
    "loss": ("Loss while souping", draw_loss),
    "metric": ("Metric while souping", draw_metric),
    "training": ("Training of ingredients", draw_training),
    "memory": ("Memory over time", draw_memory),
    "timeline": ("Ranks over time", draw_timeline),
}
