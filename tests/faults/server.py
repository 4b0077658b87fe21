"""`LD_PRELOAD=LIBRARY python -m tests.faults.server LIBRARY FOLDER RESULTS`: every fault at every write point.

The steps of scenario.py are run undisturbed, and the points at which they change files are noted. Then each fault is
done at each point, one after the other: a command is given in a process of its own, forked from this one, which has
loaded everything already; what it leaves is inspected; the next fault meets the same command, which goes on from there.
Where a command passed by without its fault (what was to be written is there), it is given again on the state before the
step. Every chain ends with the same command, undisturbed, and the result must be that of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import contents, intercept, kit, scenario
from tests.faults.contents import Held, Inspector
from tests.faults.intercept import FAILS, FAULTS, Decide, Injector, Point, Recorder
from tests.faults.scenario import Step

WORKERS = len(os.sched_getaffinity(0))
CHAIN = 25  # faults, and then the undisturbed command
HUNG_SECONDS = 300


@dataclass(frozen=True)
class Fault:
    """One fault at one point, the `turn`-th time that it is reached."""

    point: Point
    turn: int
    what: str

    def __str__(self) -> str:
        return f"{self.what} at {self.point}" + (f", time {self.turn + 1}" if self.turn else "")


@dataclass
class Stage:
    """A step, the state before it, and what an undisturbed run's files hold after it."""

    step: Step
    before: Path
    after: dict[str, Held]
    points: list[Point]


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str = ""
    err: str = ""
    reached: bool = False


@dataclass
class Told:
    """What came of one step's chain of faults."""

    step: str
    faults: int = 0
    problems: list[str] = field(default_factory=list)


class Server:
    """Runs commands in forked children."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library, self.folder = library, folder

    def given(self, words: Sequence[str], cwd: Path, decide: Decide | None = None) -> Outcome:
        """Give a command in `cwd`, its changes to files decided upon."""
        said = cwd.with_suffix(".said")
        said.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            os._exit(self._child(words, cwd, decide, said))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Outcome(code, *json.loads(said.read_text())) if said.exists() else Outcome(code)

    def _child(self, words: Sequence[str], cwd: Path, decide: Decide | None, said: Path) -> int:
        signal.alarm(HUNG_SECONDS)
        if decide is not None:
            intercept.watch(self.library, cwd, decide)
        try:
            done = kit.here(*words, cwd=cwd)
        except BaseException:  # noqa: BLE001 - as the interpreter does at last
            done = kit.subprocess.CompletedProcess([], 70, "", traceback.format_exc())
        said.write_text(json.dumps([done.stdout, done.stderr]))
        return done.returncode

    def recorded(self, step: Step, cwd: Path) -> Recorder:
        """Give a step's command undisturbed; the points that it passed."""
        notes, recorder = cwd.with_suffix(".points"), Recorder(cwd)

        child = os.fork()
        if child == 0:
            code = self._child(step.words, cwd, recorder, cwd.with_suffix(".said"))
            notes.write_text(json.dumps([[asdict(point) for point in recorder.points], sorted(recorder.lines)]))
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == step.ends, f"{step.name}: {cwd.with_suffix('.said').read_text()}"
        points, lines = json.loads(notes.read_text())
        recorder.points, recorder.lines = [Point(**point) for point in points], set(lines)
        return recorder

    def faulty(self, step: Step, cwd: Path, fault: Fault) -> Outcome:
        """Give a step's command with a fault."""
        with mmap.mmap(-1, 1) as reached:  # shared with the child, and with no other worker
            injector = Injector(cwd, fault.point, fault.turn, fault.what, lambda: reached.__setitem__(0, 1))
            outcome = self.given(step.words, cwd, injector)
            outcome.reached = bool(reached[0])
        return outcome


def faults_of(points: Sequence[Point], known: Collection[Point]) -> list[Fault]:
    """Every fault at the first time that each point is reached, in their order; at the last too for what is written.

    Points that an earlier step had are left out, but where a file takes another's place.
    """
    times = {point: points.count(point) for point in points if point not in known or point.call == "rename"}
    return [
        Fault(point, turn, what)
        for point, count in times.items()
        for turn in sorted({0, count - 1} if point.call == "write" else {0})
        for what, calls in FAULTS.items()
        if point.call in calls
    ]


def stages(server: Server) -> tuple[list[Stage], set[str]]:
    """Run everything undisturbed; each step with its points, and all lines of the package that led to a change."""
    run = server.folder / "undisturbed"
    run.mkdir()
    (run / "job.toml").write_text(scenario.JOB)
    found, lines = [], set()
    for number, step in enumerate(scenario.STEPS):
        step.hurt(run / "runs/tiny")
        before = copied(run, server.folder / f"before-{number}")
        recorder = server.recorded(step, run)
        lines |= recorder.lines
        found.append(Stage(step, before, contents.all_held(run / "runs"), recorder.points))
    return found, lines


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder; two names of one file stay two names of one file."""
    shutil.rmtree(to, ignore_errors=True)
    copies: dict[int, Path] = {}

    def copy(source: str, target: str) -> None:
        inode = os.stat(source).st_ino
        if inode in copies:
            os.link(copies[inode], target)
        else:
            shutil.copy2(source, target)
            copies[inode] = Path(target)

    return Path(shutil.copytree(folder, to, copy_function=copy))


def chain(server: Server, stage: Stage, faults: Sequence[Fault], run: Path) -> Told:
    """Do the faults one after the other, and end undisturbed."""
    told, inspector = Told(stage.step.name), Inspector(stage.before / "runs", stage.after)
    copied(stage.before, run)
    for fault in faults:
        outcome = server.faulty(stage.step, run, fault)
        if not outcome.reached:  # what is written there is there
            copied(stage.before, run)
            outcome = server.faulty(stage.step, run, fault)
        told.faults += 1
        wrong = [*_ill_told(fault, outcome, stage.step), *inspector.problems(run / "runs")]
        told.problems += [f"{stage.step.name}: {fault}: {line}" for line in wrong]
    outcome = server.given(stage.step.words, run)
    wrong = [*inspector.problems(run / "runs"), *(f"{name} is left" for name in contents.leftovers(run / "runs"))]
    wrong += [f"{name} is missing" for name in stage.after.keys() - contents.published(run / "runs").keys()]
    if outcome.code != stage.step.ends:
        wrong.append(f"ends with {outcome.code}: {outcome.err}")
    these = f"{stage.step.name}: the same command after {faults[0]} to {faults[-1]}"
    told.problems += [f"{these}: {line}" for line in wrong]
    return told


def _ill_told(fault: Fault, outcome: Outcome, step: Step) -> list[str]:
    """What is wrong with how a command told of its fault."""
    if not outcome.reached:
        return [f"is not reached: {outcome}"]
    if fault.what not in FAILS:
        return [] if outcome.code == -signal.SIGKILL else [f"was not killed, but ended with {outcome.code}"]
    if outcome.code == step.ends:
        return []  # done without what could not be written: then everything else must be there and right
    if outcome.code < 0 or "Traceback" in outcome.err:
        return [f"ended with {outcome.code}: {outcome.err}"]
    one = len(outcome.err.splitlines()) == 1 and outcome.err.startswith(kit.MARK)
    why = any(words in outcome.err for words in ("No space left", "Read-only file system"))
    return [] if one and why else [f"is not one clear line: {outcome.err!r}"]


def forked(tasks: Sequence[Callable[[Path], Any]], folder: Path) -> Iterator[Any]:
    """Results of tasks, done by as many processes as there are cores; each task is given its process's own path."""
    children = []
    for worker in range(WORKERS):
        results = folder / f"worker-{worker}.json"
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                mine = [task(folder / f"worker-{worker}") for task in tasks[worker::WORKERS]]
                results.write_text(json.dumps(mine))
            os._exit(0)
        children.append((child, results))
    for child, results in children:
        os.waitpid(child, 0)
        yield from json.loads(results.read_text())


def main(library: Path, folder: Path, results: Path) -> None:
    """Everything; the results as JSON."""
    with scenario.everything_on_disk():
        warm = folder / "warm"
        warm.mkdir(parents=True)
        (warm / "job.toml").write_text(scenario.JOB)
        for step in scenario.STEPS:  # loads, compiles and caches, so that children need not
            step.hurt(warm / "runs/tiny")
            done = kit.here(*step.words, cwd=warm)
            assert done.returncode == step.ends, f"{step.name}: {done.stderr}"
        threads = len(os.listdir("/proc/self/task"))
        assert threads == 1, f"{threads} threads are here, and children would lack all but one"
        gc.freeze()  # or each child would look through all of it, time and again
        server = Server(library, folder)
        found, lines = stages(server)
        chains, known = [], set[Point]()
        for stage in found:
            faults = faults_of(stage.points, known)
            known |= set(stage.points)
            for first in range(0, len(faults), CHAIN):
                chains.append(lambda run, s=stage, f=faults[first : first + CHAIN]: asdict(chain(server, s, f, run)))
        told = list(forked(chains, folder))
    results.write_text(json.dumps({"lines": sorted(lines), "told": told}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
