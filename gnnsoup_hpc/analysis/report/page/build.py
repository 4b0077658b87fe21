"""From what runs hold to one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gnnsoup_hpc import __version__
from gnnsoup_hpc.analysis.report.answer import Answer, find_answer
from gnnsoup_hpc.analysis.report.brief import name_gain
from gnnsoup_hpc.analysis.report.build import make_tables
from gnnsoup_hpc.analysis.report.compare import compare_runs
from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.analysis.report.page.figures import Chart, draw_comparison, draw_run
from gnnsoup_hpc.analysis.report.page.style import embed_svg, render_png, render_svg
from gnnsoup_hpc.analysis.report.page.tables import Table, list_tables
from gnnsoup_hpc.analysis.report.page.timeline import place_work
from gnnsoup_hpc.analysis.report.verdicts import list_cautions, verdicts
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.work import WorkRecord, read_work
from gnnsoup_hpc.models.kinds import describe_model

HERE = Path(__file__).parent
TEMPLATE, SCRIPT, SHEET = "page.html.jinja", "page.js", "page.css"


@dataclass(frozen=True)
class RunSection:
    """What a page shows of one run. key: of elements' names; charts: each with its SVG, as an element."""

    key: str
    run: Contents
    model: str
    answer: Answer
    cautions: tuple[str, ...]
    verdicts: tuple[str, ...]
    charts: tuple[tuple[Chart, str], ...]
    tables: tuple[Table, ...]
    works: tuple[WorkRecord, ...]
    versions: dict[str, str]

    @classmethod
    def of(cls, run: Contents, number: int) -> RunSection:
        """Everything about a run, its figures drawn."""
        key = f"run-{number}"
        works = _read_work(run)
        charts = tuple((chart, _embed(chart, key)) for chart in draw_run(run, place_work(works)))
        said = tuple(verdicts(run))
        cautions, tables = tuple(list_cautions(run)), tuple(list_tables(make_tables(run), run.task))
        model, versions = describe_model(run.job.model), _join_versions(works)
        return cls(key, run, model, find_answer(run), cautions, said, charts, tables, works, versions)


def write_page(runs: Sequence[Contents], path: Path) -> None:
    """Publish a page of one run, or of several side by side. Raises: RunError where it cannot be written."""
    files.publish_bytes(path, make_page(runs).encode())


def make_page(runs: Sequence[Contents]) -> str:
    """The page's HTML. What comes from files is escaped, and the page may load nothing and run its own script alone."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script, sheet = ((HERE / name).read_text(encoding="utf-8") for name in (SCRIPT, SHEET))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    facts: dict[str, Any] = {"script": script, "script_sha256": digest, "sheet": sheet, "version": __version__}
    facts |= {
        "title": str(runs[0].run.root) if len(runs) == 1 else f"{len(runs)} runs",
        "zip": zip,
        "show_time": _show_time,
        "name_gain": name_gain,
    }
    facts["sections"] = [RunSection.of(run, number) for number, run in enumerate(runs, 1)]
    chart = draw_comparison(runs) if len(runs) > 1 else None
    facts["comparison"] = None if chart is None else (chart, _embed(chart, "all"))
    facts["compared"] = compare_runs(runs) if len(runs) > 1 else ""
    return environment.get_template(TEMPLATE).render(facts)


def write_figures(run: Contents, folder: Path) -> list[Path]:
    """Publish each figure of a run as NAME.svg and NAME.png; the files.

    Raises: RunError where one cannot be written.
    """
    made = []
    for chart in draw_run(run, place_work(_read_work(run))):
        pictures = ((".svg", render_svg(chart.figure).encode()), (".png", render_png(chart.figure)))
        for suffix, content in pictures:
            path = folder / f"{chart.name}{suffix}"
            files.publish_bytes(path, content)
            made.append(path)
    return made


def _read_work(run: Contents) -> tuple[WorkRecord, ...]:
    return tuple(read_work(run.run, [one.index for one in run.ingredients], [soup.method for soup in run.soups]))


def _join_versions(works: Sequence[WorkRecord]) -> dict[str, str]:
    """Of each package the versions that made the run's files."""
    names = dict.fromkeys(name for work in works for name in work.versions)
    return {name: ", ".join(sorted({work.versions[name] for work in works if name in work.versions})) for name in names}


def _show_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _embed(chart: Chart, key: str) -> str:
    return embed_svg(render_svg(chart.figure), f"{key}-{chart.name}")
