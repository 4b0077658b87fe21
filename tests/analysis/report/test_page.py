"""The report as a page: what it shows, that it is whole by itself, and that names from outside stay names."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.report.contents import Contents, read_contents
from gnnsoup_hpc.analysis.report.page.build import make_page
from gnnsoup_hpc.analysis.report.page.figures import FIGURES
from gnnsoup_hpc.analysis.report.page.tables import list_tables
from gnnsoup_hpc.analysis.report.page.timeline import place_work
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.methods import METHOD_NAMES
from gnnsoup_hpc.io.records import Epoch
from gnnsoup_hpc.io.work import ALL_RANKS, WorkRecord, read_work
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import kinds, runs

VOID = frozenset({"meta", "input", "br", "link"})
HOSTILE = """</script></style><script>document.title='taken'</script><img src="http://a/b" onerror='x'> " $\\frac$ 🍲"""


class Elements(HTMLParser):
    """Elements of a page: their tags and attributes, texts of each tag; fails on one that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))


@pytest.fixture(scope="module")
def run(finished: Job) -> Contents:
    return read_contents(RunDir.of(finished).root)


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """A run judged by its mean absolute error."""
    methods = 'soup.methods=["best", "uniform", "ls", "pls"]'
    job = kinds.train_run(tmp_path_factory.mktemp("regression"), "error", "train.ingredients=2", methods)
    runs.soup_run(job)
    return read_contents(RunDir.of(job).root)


@pytest.fixture(scope="module")
def page(run: Contents) -> Elements:
    return Elements(make_page([run]))


def test_it_shows_the_answer_every_figure_and_every_method(run: Contents, page: Elements) -> None:
    texts = [text for _, text in page.texts]
    assert any(text.startswith(("Take the best ingredient", "Take the ")) for tag, text in page.texts if tag == "p")
    figures = [attributes["id"] for tag, attributes in page.found if tag == "figure"]
    assert figures == [f"run-1-{name}" for name in FIGURES]
    assert {soup.method for soup in run.soups} == set(METHOD_NAMES) <= set(texts)
    assert f"{run.soups[-1].test_accuracy:.4f}" in texts


def test_nothing_is_loaded_from_elsewhere(page: Elements) -> None:
    """A part of the page itself is all that may be named; namespaces are no addresses."""
    for tag, attributes in page.found:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert (value or "").startswith("#"), (tag, name, value)
    policy = next(a["content"] for tag, a in page.found if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not {tag for tag, _ in page.found} & {"link", "iframe", "object", "img", "base"}


def test_names_of_elements_are_unique_and_those_that_are_used_are_there(page: Elements) -> None:
    names = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(names) == len(set(names))
    used = {a["xlink:href"] for tag, a in page.found if tag == "use"}
    assert {f"#{name}" for name in names} >= used != set()


def test_colours_are_the_pages(page: Elements) -> None:
    """Figures name variables, which the style sheet has for light and dark."""
    styles = " ".join(a.get("style") or "" for tag, a in page.found if tag in ("path", "text", "use"))
    used = set(re.findall(r"var\((--\w+)\)", styles))
    sheet = next(text for tag, text in page.texts if tag == "style")
    assert {"--ink", "--muted", "--c1"} <= used <= set(re.findall(r"(--\w+):", sheet))
    assert set(re.findall(r"#[0-9a-f]{6}", styles)) <= {"#000000", "#ffffff"}


def test_names_from_outside_stay_names(run: Contents) -> None:
    ingredients = tuple(replace(one, imported=HOSTILE, engine=HOSTILE, stopped=HOSTILE) for one in run.ingredients)
    soups = tuple(
        replace(s, mixture=replace(s.mixture, groups=tuple(f"{HOSTILE}{i}" for i in range(len(s.mixture.groups)))))
        for s in run.soups
    )
    hostile = replace(run, graph=HOSTILE, split=HOSTILE, notes=(HOSTILE,), ingredients=ingredients, soups=soups)
    page = Elements(make_page([hostile]))
    assert len([tag for tag, _ in page.found if tag == "script"]) == 1
    assert not [tag for tag, _ in page.found if tag == "img"]
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    assert sum(HOSTILE in text for _, text in page.texts) >= 4
    assert any(tag == "text" and text.endswith(f"{HOSTILE[-20:]}1") for tag, text in page.texts)


def test_many_ingredients_are_a_small_page(run: Contents) -> None:
    history = tuple(Epoch(i, 1.0 / i, 0.5 + 0.4 * np.sin(i) ** 2, 1.0) for i in range(1, 201))
    first = run.ingredients[0]
    ingredients = tuple(replace(first, index=index, history=history, best_epoch=200) for index in range(48))
    soups = tuple(
        replace(
            s, mixture=replace(s.mixture, alpha=s.mixture.alpha.repeat(1, 16) / 16.0), ingredients=s.ingredients * 16
        )
        for s in run.soups
    )
    text = make_page([replace(run, ingredients=ingredients, soups=soups)])
    assert len(text.encode()) < 5_000_000
    cells = [text for tag, text in Elements(text).texts if tag == "td"]
    assert {f"{index:04d}" for index in range(48)} <= set(cells)


def test_runs_are_shown_side_by_side(run: Contents) -> None:
    page = Elements(make_page([run, run]))
    assert [a["id"] for tag, a in page.found if tag == "section"] == ["all", "run-1", "run-2"]
    assert ("figure", {"id": "all-comparison"}) in page.found
    names = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(names) == len(set(names))


def test_gains_by_unlike_metrics_have_no_common_axis(run: Contents, regression: Contents) -> None:
    page = Elements(make_page([run, regression]))
    assert [a["id"] for tag, a in page.found if tag == "section"] == ["all", "run-1", "run-2"]
    assert ("figure", {"id": "all-comparison"}) not in page.found


def test_tables_sort_by_values_and_show_what_people_read(run: Contents) -> None:
    columns = {
        "method": (["a", "b"], "1", "whose"),
        "seconds": (np.array([0.125, np.nan]), "s", "how long"),
        "peak_host_bytes": (np.array([3.0 * 2**20, 0.0]), "B", "how much"),
        "gain": (np.array([-0.0123, 0.5]), "1", "how much better"),
        "learning_rate": (np.array([0.01, 0.00025]), "1", "rate"),
        "test_accuracy": (np.array([0.81234567, 1.0]), "1", "accuracy"),
        "lineup": (["as trained", "matched"], "1", "how aligned"),
        "barrier_loss": (np.array([np.inf, 0.5]), "1", "barrier"),
        "in_basin": (np.array([0, 1], dtype=np.uint8), "1", "whether"),
    }
    (table,) = list_tables({"methods": (columns, "one row a method")}, run.task)
    heads = [(head.name, head.number, head.more) for head in table.heads]
    assert heads == [
        ("method", False, False),
        ("seconds", True, False),
        ("peak host, MiB", True, True),
        ("gain, points", True, False),
        ("learning rate", True, True),
        ("test accuracy", True, False),
        ("alignment", False, True),
        ("barrier loss", True, True),
        ("in basin", True, True),
    ]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "0.12", "3.0", "-1.23", "0.01", "0.8123", "as trained", "-", "no"],
        ["b", "-", "0.0", "50.00", "0.00025", "1.0000", "matched", "0.5", "yes"],
    ]
    assert [cell.value for cell in table.rows[0]][:6] == ["a", "0.125", "3145728.0", "-0.0123", "0.01", "0.81234567"]
    assert table.rows[1][1].value == table.rows[0][7].value == ""


def make_work(
    what: str, ended: float, seconds: float, rank: int = 0, host: str = "a", phase: str = "train"
) -> WorkRecord:
    return WorkRecord(phase, what, host, rank, 2, ended, {"seconds": seconds}, {})


def test_work_is_read_from_the_files_of_a_run(finished: Job) -> None:
    works = read_work(RunDir.of(finished), [0, 1, 2], ["ls", "pls"])
    assert {(work.phase, work.what) for work in works} == {
        ("prepare", "prepare"),
        *(("train", name) for name in ("0000", "0001", "0002")),
        ("align", "align"),
        ("soup", "ls"),
        ("soup", "pls"),
    }
    assert [work.ended for work in works] == sorted(work.ended for work in works)
    assert all(work.spent["seconds"] > 0 and work.rank == 0 and work.versions["torch"] for work in works)


def test_idle_time_is_left_out_and_marked() -> None:
    """Two ranks work from 0 to 20, nobody for 1000 seconds, then all of them for 10."""
    works = [
        make_work("0000", 1010.0, 10.0),
        make_work("0001", 1020.0, 18.0, rank=1),
        make_work("ls", 2030.0, 10.0, rank=ALL_RANKS, phase="soup"),
    ]
    found = place_work(works)
    assert [(each.work.what, each.start, each.end) for each in found.placed] == [
        ("0000", 0.0, 10.0),
        ("0001", 2.0, 20.0),
        ("ls", 20.0, 30.0),
    ]
    assert found.gaps == ((20.0, 1000.0),)
    rows = [(name, [each.work.what for each in row]) for name, row in found.list_rows()]
    assert rows == [("rank 0", ["0000"]), ("rank 1", ["0001"]), ("all 2 ranks", ["ls"])]


def test_ranks_of_several_hosts_are_told_apart() -> None:
    works = [make_work("0000", 1.0, 1.0, host="a"), make_work("0001", 1.0, 1.0, host="b")]
    assert [name for name, _ in place_work(works).list_rows()] == ["rank 0 on a", "rank 0 on b"]
    assert place_work([]).placed == ()


@pytest.fixture
def root(finished: Job, own_excepthook: None) -> Iterator[str]:
    found = RunDir.of(finished)
    yield str(found.root)
    found.page.unlink(missing_ok=True)


def test_the_command_writes_pages_and_pictures(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", root, "--html"]) == 0
    assert capsys.readouterr().out.endswith(f"\n-> {root}/report.h5, {root}/report.html\n")
    assert Path(root, "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    monkeypatch.chdir(tmp_path)
    assert main(["report", root, root, "--html"]) == 0
    assert capsys.readouterr().out.endswith("\n-> comparison.html\n")
    assert "2 runs" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert main(["report", root, "--quiet", "--html", "--to", "named.html", "--figures", "pictures"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "named.html").is_file()
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        f"{n}.{s}" for n in FIGURES for s in ("png", "svg")
    }
    assert (tmp_path / "pictures/methods.png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_go_together_or_is_missing_is_said(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", root, "--to", str(tmp_path / "a.html")]) == 2
    assert "--to says where the page of --html goes: give --html too" in capsys.readouterr().err
    assert main(["report", root, root, "--figures", str(tmp_path)]) == 2
    assert "--figures takes the figures of one run, and 2 are named" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["report", root, "--html", "--to", str(tmp_path / "file/page.html")]) == 1
    assert "page.html" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in (["report", root, "--html"], ["soup", str(Path(root, "job.toml")), "--html"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert (
            "--html and --figures need the package matplotlib, which is not here: pip install 'gnnsoup_hpc[report]'"
            in said
        )


def test_a_metric_whose_low_values_are_good_is_told_so(regression: Contents) -> None:
    """Heads, axes and what is said of gains; no sign of markup where axes have few numbers."""
    page = Elements(make_page([regression]))
    texts = [text for _, text in page.texts]
    assert {"test MAE", "gain"} <= set(texts)
    assert "test MAE, lower is better" in texts
    assert any(text.startswith("Gain: test mean absolute error below the best ingredient;") for text in texts)
    assert any(text.startswith("Lower left is best.") for text in texts)
    assert not [text for text in texts if "$" in text or "mathdefault" in text]


def test_a_method_without_measurable_seconds_is_named_where_it_is_drawn(run: Contents) -> None:
    """The ensemble takes no time, and some memory: its mark is in one chart of two."""
    spent = {"seconds": 0.0, "peak_host_bytes": 3.0 * 2**20, "baseline_host_bytes": 2.0**20}
    soups = [replace(s, measurement=s.measurement | spent) if s.method == "ensemble" else s for s in run.soups]
    page = Elements(make_page([replace(run, soups=tuple(soups))]))
    names = [text for tag, text in page.texts if tag == "text" and text == "ensemble"]
    assert len(names) == 4  # beside its bar and its line, beside the costs, beside its shares
