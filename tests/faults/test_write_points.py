"""A full disk, a read-only one and a kill at every point at which a run's files are changed, all steps of a run.

The points are not listed anywhere: they are seen while the steps run (intercept.py). Each is met by one fault, of the
kind that met the fewest before, and in the slow tests by every fault. What must hold after each:
no file looks finished that is not; a fault that can be told ends in one clear line; the same command goes on, and
its result is that of an undisturbed run, and nothing else is left. See docs/faults.md.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import intercept, scenario
from tests.faults.intercept import FAULTS, PACKAGE

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
GUARD = 3600  # seconds until a hang is called one
MANY = 5

WRITES = frozenset({"mkdir", "rename", "replace", "link", "symlink", "unlink", "rmdir", "touch", "utime", "save"})
WRITES |= {"write_text", "write_bytes", "rmtree", "copyfile"}
# Modules that write nothing of a run but elsewhere, at a user's or a set's behest.
ELSEWHERE = (
    "bench/",
    "cli/bench.py",
    "engine/compiled/kernels/base.py",
    "data/sources/",
    "io/standalone.py",  # which is copied, and run by others
)
# What no command comes by when no time passes and nobody else is there; tests/runtime/test_leases.py has the first two.
NOT_REACHED = {
    "runtime/leases.py": {
        "os.utime(self._path)",
        "os.link(aside, path)",
    },  # renewed, after seconds; put back, after a race
    "runtime/profiling.py": {"CLEAR_REFS.write_text('5')"},  # a word to the system, and no file
    "io/export.py": {"torch.save(state, room)", "load_safetensors().save(state)"},  # to memory
    "runtime/terminal.py": {"open(os.devnull, 'w', encoding='utf-8')"},  # where stdout is closed
}


@pytest.fixture(scope="module", params=["one", pytest.param("all", marks=pytest.mark.slow)])
def faults(request: pytest.FixtureRequest) -> str:
    """Which faults each point is met by."""
    return str(request.param)


@pytest.fixture(scope="module")
def told(faults: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the server tells; runs lie in memory, where syncing costs nothing."""
    library = intercept.compiled(tmp_path_factory.mktemp("library"))
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        results = Path(folder, "results.json")
        words = [sys.executable, "-m", "tests.faults.server", str(library), f"{folder}/runs", str(results), faults]
        done = subprocess.run(
            words,
            env=os.environ | ONE_THREAD | {"LD_PRELOAD": str(library)},
            cwd=PACKAGE.parent,
            capture_output=True,
            text=True,
            timeout=GUARD,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout)  # how many faults: pytest -s shows it
        yield json.loads(results.read_text())


@pytest.mark.parametrize("step", [step.name for step in scenario.STEPS])
def test_faults_at_every_point(step: str, told: dict[str, Any]) -> None:
    chains = [each for each in told["told"] if each["step"] == step]
    assert sum(len(each["done"]) for each in chains) > 0
    assert [problem for each in chains for problem in each["problems"]] == []


def test_every_kind_of_file_was_met_while_it_took_its_place(faults: str, told: dict[str, Any]) -> None:
    done = {tuple(each) for chain in told["told"] for each in chain["done"]}
    wanted = ("killed before", "killed after", "disk full", "read-only")
    met = {
        kind: [what for what in wanted if done & {(what, "rename", kind), (what, "replace", kind)}]
        for kind in told["kinds"]
    }
    assert len(met) >= len(("graph", "job", "initial", "trunk", "ingredient", "gathered", "soup", "report"))
    assert [kind for kind, by in met.items() if len(by) < (1 if faults == "one" else len(wanted))] == []


def test_every_kind_of_fault_met_many_points(told: dict[str, Any]) -> None:
    met = Counter(what for chain in told["told"] for what, _, _ in chain["done"])
    assert met.keys() == FAULTS.keys()
    assert min(met.values()) >= MANY, met


def test_every_file_is_synced_before_it_takes_its_place_and_its_folder_afterwards(told: dict[str, Any]) -> None:
    """A kill cannot show this, for the system still writes what a killed process gave it."""
    assert told["unsynced"] == []


def test_every_line_that_writes_was_among_them(told: dict[str, Any]) -> None:
    """A new line that writes must be reached by a step of scenario.py."""
    reached = set(told["lines"])
    missed = [(text, where) for text, where in writing_calls() if where not in reached]
    not_reached = {(name, text) for name, texts in NOT_REACHED.items() for text in texts}
    assert [where for text, where in missed if text not in not_reached] == [], "give scenario.py a step for it"
    assert not_reached <= {text for text, _ in missed}, "this is reached, or is no more"


def writing_calls() -> list[tuple[tuple[str, str], str]]:
    """Every call of the package that writes: its module and text, and its line, "io/files.py:52"."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if not name.startswith(ELSEWHERE):
            calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
            found += [((name, ast.unparse(call)), f"{name}:{call.lineno}") for call in calls if _writes(call)]
    return found


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    texts = {
        str(value.value)
        for value in [*call.args, *(word.value for word in call.keywords)]
        if isinstance(value, ast.Constant)
    }
    if name == "open":
        return any(set(text) & set("wax+") and len(text) <= 3 for text in texts)
    if name == "replace":  # of a path or of os, not of a text, a date or a dataclass
        return (
            isinstance(call.func, ast.Attribute)
            and len(call.args) + len(call.keywords) <= 2
            and not texts
            and _path(call)
        )
    return name in WRITES


def _path(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "os.replace" or (len(call.args) == 1 and not call.keywords)
