"""What a run ends with: the answer, one table, what must be known, and where to look; 25 lines of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from gnnsoup_hpc.analysis.report.answer import BEST, POINTS, Answer, find_answer, show_difference
from gnnsoup_hpc.analysis.report.comparison import compare_with_best
from gnnsoup_hpc.analysis.report.contents import Contents, count_models
from gnnsoup_hpc.analysis.report.table import show_spread
from gnnsoup_hpc.analysis.report.verdicts import judge_basin, list_cautions
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.models.kinds import describe_model
from gnnsoup_hpc.runtime.profiling import subtract_baseline
from gnnsoup_hpc.utils.text_table import align_columns, show_number

LINES, COLUMNS = 25, 100
wrap = partial(textwrap.wrap, width=COLUMNS, break_on_hyphens=False)  # commands and paths stay whole
LEAST = 2  # lines that cautions have before the table has all it asks for


def show_brief(run: Contents) -> str:
    """The run in a few lines, one less than LINES, for the file's name comes after; `show_run` has all."""
    answer, count = find_answer(run), len(run.ingredients)
    graph = ", ".join(run.graph.split(", ")[:2])
    title = f"{run.run.root}: {describe_model(run.job.model)}, on {graph}"
    head = [
        *wrap(title, max_lines=2),
        "",
        *wrap(answer.sentence),
        *(wrap(f"Try: {answer.advice}.") if answer.advice else []),
        "",
    ]
    foot = ["", *wrap(_show_cost(run))]
    for line in _list_ways(run, answer):
        foot += wrap(line)
    explained = judge_basin(run) if answer.method == BEST and count > 1 else ()
    cautions = [*list_cautions(run), *explained]
    room = LINES - 1 - len(head) - len(foot)
    table = _list_rows(run, room - (LEAST if cautions else 0))
    return "\n".join([*head, *table, *_list_cautions(cautions, room - len(table)), *foot])


def _show_cost(run: Contents) -> str:
    """Seconds and memory of the phases."""
    spent = ", ".join(f"{phase.name} {show_number(phase.seconds, '.1f')}" for phase in run.phases)
    peak = max(phase.peak_host_bytes - phase.baseline_host_bytes for phase in run.phases)
    return f"Seconds: {spent}. Peak memory above start: {show_number(peak / 2**20, '.0f')} MiB."


def _list_ways(run: Contents, answer: Answer) -> Iterator[str]:
    """Where to go on: how to take the model, and where all figures are."""
    if answer.method != BEST:  # of the best ingredient there is something to try first
        yield f"Take it: gnnsoup export {run.run.root} --method {answer.method}"
    yield f"All figures: gnnsoup report {run.run.root} --verbose, or --html for a page"


def _list_rows(run: Contents, room: int) -> list[str]:
    """The mean ingredient and a row a method, as far as there is room."""
    rows = [_make_row(run, soup) for soup in run.soups]
    count = len(run.ingredients)
    roles = ("validation", "test")
    spreads = (f"{role} {show_spread([getattr(one, f'{role}_accuracy') for one in run.ingredients])}" for role in roles)
    head = ("model", "validation", "test", "gain", "", "seconds", "peak MiB", "inference")
    legend = wrap(f"gain: {_name_unit(run)} above the best ingredient ± 2 standard errors; better: beyond them")
    if len(rows) + len(legend) + 3 <= room:
        legend.append("seconds, peak MiB: to make it; inference: models that one prediction runs through")
    shown = rows if len(rows) + len(legend) + 2 <= room else rows[: room - len(legend) - 3]
    return [
        f"{count} ingredient{'s' if count > 1 else ''}: {', '.join(spreads)} (mean ± standard deviation)",
        *map(str.rstrip, align_columns([head, *shown])),
        *([f"… and {len(rows) - len(shown)} more methods"] if len(shown) < len(rows) else []),
        *legend,
    ]


def _make_row(run: Contents, soup: Soup) -> tuple[str, ...]:
    gain, word, models = "", "", count_models(soup)
    if soup.method != BEST:
        found = compare_with_best(run, soup)
        gain = show_difference(run, found).removesuffix(POINTS)
        word = found.word
    return (
        soup.method,
        f"{soup.validation_accuracy:.4f}",
        f"{soup.test_accuracy:.4f}",
        gain,
        word,
        f"{soup.measurement['seconds']:.2f}",
        show_number(subtract_baseline(soup.measurement) / 2**20, ".1f"),
        f"{models} model{'s' if models > 1 else ''}",
    )


def _name_unit(run: Contents) -> str:
    return f"{'points of ' if run.task.show(1.0).endswith(POINTS) else ''}test {run.metric}"


def _list_cautions(sentences: Iterable[str], room: int) -> Sequence[str]:
    """As many whole sentences as there is room for, and how many more there are."""
    left, lines = list(sentences), list[str]()
    while left and len(lines) + len(wrapped := wrap(left[0])) + (len(left) > 1) <= room - 1:
        lines += wrapped
        left.pop(0)
    more = [f"… and {len(left)} more remark{'s' if len(left) > 1 else ''}"] if left else []
    return ["", *lines, *more] if room > 1 and (lines or more) else []
