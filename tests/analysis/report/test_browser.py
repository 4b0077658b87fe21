"""The page in a browser: its tables sort and hide, it runs no other script, and no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.page.build import make_page
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.methods import METHOD_NAMES
from gnnsoup_hpc.runtime.run_dir import RunDir

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: make cluster-tools")
SECONDS = 120  # until a hang is called one
BROWSER = "not an origin"  # who asks for what the browser wants for itself
DRIVER = """
const table = document.getElementById("run-1-table-methods"), seen = {};
const column = name => [...table.tHead.rows[0].cells].findIndex(head => head.textContent === name);
const read = name => [...table.tBodies[0].rows].map(row => row.cells[column(name)].dataset.value);
const press = name => table.tHead.rows[0].cells[column(name)].querySelector("button").click();
const shown = name => getComputedStyle(table.tHead.rows[0].cells[column(name)]).display !== "none";
press("seconds"); seen.rising = read("seconds");
press("seconds"); seen.falling = read("seconds");
press("method"); seen.names = read("method");
press("share of ceiling"); seen.unknown = read("share of ceiling");
seen.few = [shown("method"), shown("forward whole")];
document.querySelector("input[data-table=run-1-table-methods]").click();
seen.all = [shown("method"), shown("forward whole")];
const ink = () => getComputedStyle(document.body).color;
seen.inks = [ink()]; document.getElementById("theme").click(); seen.inks.push(ink());
document.getElementById("theme").click(); seen.inks.push(ink());
fetch("http://127.0.0.1:9/asked").catch(() => { document.title = "refused " + JSON.stringify(seen); });
"""


def look(page: str, folder: Path) -> tuple[str, list[str]]:
    """A page after its scripts have run: its title, and the addresses that were asked for."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    log = folder / "net.json"
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
    quiet = ("--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync")
    words = [str(CHROMIUM), *options, *quiet, f"--log-net-log={log}", "--virtual-time-budget=3000", "--dump-dom"]
    address = (folder / "page.html").as_uri()
    done = subprocess.run([*words, address], capture_output=True, text=True, timeout=SECONDS, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    started = [params for params in events if params.get("initiator", BROWSER) != BROWSER]  # by a page
    return title[1], sorted({params["url"] for params in started})


def add_script(page: str, script: str, allowed: bool) -> str:
    """The page with one more script, which its policy allows or not."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"script-src 'sha256-{digest}' " if allowed else "script-src "
    assert "script-src " in page
    return page.replace("script-src ", policy, 1).replace("</body>", f"<script>{script}</script></body>")


@pytest.fixture(scope="module")
def page(finished: Job) -> str:
    return make_page([read_contents(RunDir.of(finished).root)])


def test_tables_sort_and_hide_and_colours_change(page: str, tmp_path: Path) -> None:
    title, asked = look(add_script(page, DRIVER, allowed=True), tmp_path)
    assert title.startswith("refused {")  # what a script of the page asks for does not leave it
    assert asked == []
    seen = json.loads(title.removeprefix("refused "))
    assert [float(value) for value in seen["rising"]] == sorted(float(value) for value in seen["rising"])
    assert seen["falling"] == seen["rising"][::-1]
    assert seen["names"] == sorted(METHOD_NAMES)
    known = [value for value in seen["unknown"] if value]
    assert seen["unknown"] == known + [""] * (len(METHOD_NAMES) - len(known))
    assert seen["few"] == [True, False]
    assert seen["all"] == [True, True]
    first, second, third = seen["inks"]
    assert first == third != second


def test_another_script_does_not_run(page: str, tmp_path: Path) -> None:
    title, asked = look(add_script(page, "document.title = 'taken';", allowed=False), tmp_path)
    assert title == re.search(r"<title>(.*?)</title>", page)[1]  # type: ignore[index]
    assert asked == []


def test_a_request_would_be_seen(tmp_path: Path) -> None:
    """Without the page's policy one is made, and is in the browser's log."""
    page = "<title>plain</title><img src='http://127.0.0.1:9/asked'>"
    assert look(page, tmp_path) == ("plain", ["http://127.0.0.1:9/asked"])
