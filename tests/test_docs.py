"""README and docs: links lead somewhere, nothing is left to fill in, and what they show of jobs and files is true."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.cli.commands import COMMANDS, add_arguments
from gnnsoup_hpc.config import METHOD_NAMES
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.runtime.profiling import QUANTITIES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w/.<*-])((?:[a-z_]\w*/)*[a-z_]\w*\.py)\b")  # not NAME.py, which stands for any
MARKED = re.compile(r"^<!-- (?:run|file (\S+)) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITTEN = re.compile(r"^<!-- file (\S+) -->$", re.MULTILINE)
COMMAND = re.compile(
    r"^ *(?:\S+=\S+ )*(?:mpirun -n \S+ )?(?:\.venv/bin/)?(?:gnnsoup|python -m gnnsoup_hpc) ((?:.*\\\n)*.*)$",
    re.MULTILINE,
)
MARK = re.compile(r"^<!-- (?:run|file).*-->$", re.MULTILINE)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on GitHub."""
    headings = HEADING.findall(FENCE.sub("", text(page)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in LINK.findall(FENCE.sub("", text(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_files_that_are_named_exist() -> None:
    """In pages, docstrings and comments, or a page writes them; the changelog alone speaks of files that are gone."""
    tree = {
        str(path.relative_to(ROOT))
        for folder in ("gnnsoup_hpc", "tests", "jobs", "docs")
        for path in (ROOT / folder).rglob("*.py")
    }
    tree |= {path.name for path in ROOT.glob("*.py")}
    pages = [page for page in [*PAGES, ROOT / "CONTRIBUTING.md"] if page.name != "CHANGELOG.md"]
    gone = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in [*pages, *(ROOT / "gnnsoup_hpc").rglob("*.py")]
        for name in NAMED.findall(text(page))
        if not any(f"/{path}".endswith(f"/{name}") for path in [*tree, *WRITTEN.findall(text(page))])
    ]
    assert gone == []


@pytest.mark.usefixtures("own_excepthook")
@pytest.mark.parametrize("page", [page for page in PAGES if MARK.search(text(page))], ids=lambda page: page.name)
def test_blocks_that_are_marked_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a page, in one folder: `<!-- file NAME -->` above a block writes it, `<!-- run -->` runs it.

    Examples of docs/python.md and README that need more around them are run by tests of what they show.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = MARKED.findall(text(page))
    assert len(blocks) == len(MARK.findall(text(page)))
    for file, language, code in blocks:
        if file:
            assert f"`{file}`" in text(page)
            monkeypatch.setitem(sys.modules, Path(file).stem, None)  # what is imported by this name is forgotten after
            del sys.modules[Path(file).stem]
            Path(file).write_text(code, encoding="utf-8")
        elif language == "python":
            exec(compile(code, page.name, "exec"), names)
        else:
            for line in code.replace("\\\n", " ").splitlines():
                run_command(shlex.split(line, comments=True), monkeypatch)


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a shell, in this process: starting one anew takes seconds."""
    if words and words[0] == "gnnsoup":
        assert main(words[1:]) == 0, words
    elif words:
        assert words[0] == "python", words
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")


@every_page
def test_commands_that_are_shown_are_commands(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their names and options; `$S` alone stands for options of a loop in a shell."""
    for line in COMMAND.findall(text(page)):
        words = [
            word for word in shlex.split(line.replace("\\\n", " "), comments=True) if not re.fullmatch(r"\$\w+", word)
        ]
        assert words[0] in COMMANDS, line
        parser = argparse.ArgumentParser()
        add_arguments(parser, words[0])
        try:
            parser.parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")


@every_page
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert re.findall(r"^@\w+@$|\bTODO\b|\bFIXME\b|\bTBD\b", text(page), re.MULTILINE) == []


@every_page
def test_jobs_that_are_shown_are_jobs(page: Path) -> None:
    for kind, block in FENCE.findall(text(page)):
        if kind == "toml":
            tree = tomllib.loads(block)
            jobs.validate(tree if "name" in tree else {"name": "shown", **tree}, str(page))


@every_page
def test_keys_that_are_overridden_are_keys(page: Path) -> None:
    known = set(dict(jobs.fields()))
    known |= {key.replace("soup", "sweep", 1) for key in known if key.startswith("soup.")}
    known |= {f"sweep.{key}" for key in known if key.startswith(("train.", "model."))}
    keys = re.findall(r"--set [\"']?([a-z_.]+)=", text(page))
    assert [key for key in keys if key not in known] == []


def test_bundled_jobs_that_are_named_exist() -> None:
    bundled = {path.stem for path in jobs.bundled_jobs()}
    for page in PAGES:
        named = set(re.findall(r"\bjobs/([\w-]+)\.toml", text(page)))
        assert named <= bundled, page.name


def test_every_room_is_on_the_map() -> None:
    map_of_code = text(ROOT / "docs" / "architecture.md")
    rooms = [
        path for path in (ROOT / "gnnsoup_hpc").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in rooms if path.name != "__init__.py"]
    assert len(names) > 15
    assert [name for name in names if name not in map_of_code] == []


def test_every_method_and_quantity_is_documented() -> None:
    methods, format_of_files = text(ROOT / "docs" / "methods.md"), text(ROOT / "docs" / "format.md")
    assert [name for name in METHOD_NAMES if f"`{name}`" not in methods] == []
    assert [name for name in QUANTITIES if f"`{name}`" not in format_of_files] == []


def load_tool(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of docs/tools, which mkdocs loads when it builds the site."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "tools")
    monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module(name)


@pytest.mark.parametrize(
    ("page", "repository", "link", "moved"),
    [
        ("index.md", "", "[m](docs/methods.md#distil)", "[m](methods.md#distil)"),
        ("index.md", "", "![m](docs/images/x.svg)", "![m](images/x.svg)"),
        ("index.md", "", "[licence](LICENSE)", "licence (`LICENSE`)"),
        ("index.md", "", "[`LICENSE`](LICENSE), `[x](y)`", "`LICENSE`, `[x](y)`"),
        ("examples/README.md", "", "[jobs/](../../jobs), [run](own_graph.py)", "jobs/, [run](own_graph.py)"),
        ("python.md", "", "[README](../README.md)", "[README](index.md)"),
        ("howto/model.md", "", "[m](../models.md), [here](#a), [web](https://a.b/c)", None),
        ("howto/model.md", "", "[README](../../README.md#use-it)", "[README](../index.md#use-it)"),
        (
            "howto/model.md",
            "https://a.b/c/",
            "[x](../../jobs/pubmed.toml)",
            "[x](https://a.b/c/blob/HEAD/jobs/pubmed.toml)",
        ),
        ("models.md", "", "[gone](../jobs/gone.toml)", None),
        ("models.md", "", "`[x](../jobs/pubmed.toml)`\n```\n[x](../jobs/pubmed.toml)\n```\n", None),
    ],
)
def test_links_are_moved_to_where_they_lead_in_the_site(
    page: str, repository: str, link: str, moved: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_tool("links", monkeypatch).move_links(link, page, repository) == (moved or link)


def test_the_reference_has_every_field_of_a_job_and_every_option_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load_tool("reference", monkeypatch)
    table, rows = "", []
    for line in reference.list_job_fields().splitlines():
        if heading := re.fullmatch(r"## \[(.*)\]", line):
            table = f"{heading[1]}."
            rows.append(heading[1])
        if row := re.match(r"\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]{4}", line.replace(r"\|", "")):
            rows.append(table + row[1])
    assert sorted(rows) == sorted(name for name, _ in jobs.fields())
    chapters = dict(re.findall(r"^## gnnsoup (\w+)\n(.*?)^```$", reference.list_commands(), re.MULTILINE | re.DOTALL))
    assert list(chapters) == list(COMMANDS)
    for name, chapter in chapters.items():
        parser = argparse.ArgumentParser()
        add_arguments(parser, name)
        options = set(re.findall(r"(?<!\S)--[a-z-]+", parser.format_help()))
        assert options <= set(re.findall(r"(?<!\S)--[a-z-]+", chapter)), name


def test_every_page_is_in_the_sites_navigation() -> None:
    """The site's build says so too; here, where mkdocs may be missing."""
    navigation = text(ROOT / "mkdocs.yml").partition("\nnav:\n")[2]
    named = re.findall(r"[\w/]+\.md$", navigation, re.MULTILINE)
    there = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted([*there, "index.md", "changelog.md", "contributing.md"])


def test_pictures_are_as_their_script_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = load_tool("draw", monkeypatch).PICTURES
    images = ROOT / "docs" / "images"
    assert {path.name for path in images.glob("*.svg")} == set(pictures)
    for name, draw in pictures.items():
        assert text(images / name) == draw(), f"{name}: python docs/tools/draw.py"


def test_the_method_that_is_shown_is_the_one_that_is_tested() -> None:
    ((_, shown),) = FENCE.findall(text(ROOT / "docs" / "howto" / "extend.md"))
    assert shown in text(ROOT / "tests" / "extension" / "half.py")
