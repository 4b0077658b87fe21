"""`LD_PRELOAD=LIBRARY python -m tests.faults.server LIBRARY FOLDER RESULTS FAULTS`: faults at every write point.

FAULTS is "all", or "one" of each point's (plan.py says which).

The steps of scenario.py are run undisturbed, and the points at which they change files are noted. Then each fault is
done at its point, one after the other: a command is given in a process of its own, forked from this one, which has
loaded everything already; what it leaves is inspected; the next fault meets the same command, which goes on from there.
Where a command passed by without its fault (what was to be written is there), it is given again on the state before the
step. Every chain ends with the same command, undisturbed, and the result must be that of an undisturbed run.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gnnsoup_hpc.engine.threads import POOLS
from tests.faults import contents, intercept, kit, scenario
from tests.faults.contents import Held, Inspector
from tests.faults.intercept import FAILS, KILLS, Injector, Point, Recorder
from tests.faults.plan import Fault, OneEach, faults_of, unsynced
from tests.faults.scenario import Step

WORKERS = len(os.sched_getaffinity(0))
CHAIN = 40  # faults, and then the undisturbed command
HUNG_SECONDS = 300
BROKE = 70  # exit code of a child that raised what it should not


@dataclass
class Stage:
    """A step, the state before it, what an undisturbed run's files hold after it, and what else it leaves."""

    step: Step
    before: Path
    after: dict[str, Held]
    left: list[str]
    passed: list[tuple[Point, str]]


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str = ""
    err: str = ""
    lines: list[str] = field(default_factory=list)  # of the package, that led to a change
    passed: list[tuple[dict[str, str], str]] = field(default_factory=list)  # points, with paths
    reached: bool = False


@dataclass
class Told:
    """What came of one step's chain of faults."""

    step: str
    done: list[tuple[str, str, str]] = field(default_factory=list)  # what, at which call, of which kind of file
    problems: list[str] = field(default_factory=list)
    lines: set[str] = field(default_factory=set)


def child(work: Callable[[], int], trace: Path) -> int:
    """Do something in a forked process; its number. What it raises is written to `trace`."""
    number = os.fork()
    if number:
        return number
    code = BROKE
    try:
        code = work()
    finally:  # and never back into what this process is a copy of
        if sys.exc_info()[0] is not None:
            trace.write_text(traceback.format_exc())
        os._exit(code)


def ended(number: int) -> int:
    """Exit code of a child, when it has one."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


@dataclass(frozen=True)
class Server:
    """Runs commands in forked children."""

    library: Path
    folder: Path

    def given(self, words: Sequence[str], cwd: Path, watching: Recorder) -> Outcome:
        """Give a command in `cwd`; what it does to files is watched, and may be decided upon."""
        said, trace = cwd.with_suffix(".said"), cwd.with_suffix(".trace")
        for path in (said, trace):
            path.unlink(missing_ok=True)

        def command() -> int:
            signal.alarm(HUNG_SECONDS)
            intercept.watch(self.library, cwd, watching)
            done = kit.here(*words, cwd=cwd)
            passed = (
                [] if isinstance(watching, Injector) else [(asdict(point), path) for point, path in watching.points]
            )
            said.write_text(json.dumps([done.stdout, done.stderr, sorted(watching.lines), passed]))
            return done.returncode

        code = ended(child(command, trace))
        if trace.exists():
            return Outcome(code, err=trace.read_text())
        return Outcome(code, *json.loads(said.read_text())) if said.exists() else Outcome(code)

    def faulty(self, step: Step, cwd: Path, fault: Fault) -> Outcome:
        """Give a step's command with a fault."""
        with mmap.mmap(-1, 1) as reached:  # shared with the child, and with no other worker
            injector = Injector(cwd, fault.point, fault.turn, fault.what, lambda: reached.__setitem__(0, 1))
            outcome = self.given(step.words, cwd, injector)
            outcome.reached = bool(reached[0])
        return outcome


def stages(server: Server) -> tuple[list[Stage], set[str]]:
    """Run everything undisturbed; each step with its points, and all lines of the package that led to a change."""
    run = server.folder / "undisturbed"
    run.mkdir()
    (run / "job.toml").write_text(scenario.JOB)
    found, lines = [], set[str]()
    for number, step in enumerate(scenario.STEPS):
        step.hurt(run / "runs")
        before = copied(run, server.folder / f"before-{number}")
        outcome = server.given(step.words, run, Recorder(run))
        assert outcome.code == step.ends, f"{step.name}: {outcome}"
        lines.update(outcome.lines)
        passed = [(Point(**point), path) for point, path in outcome.passed]
        runs = run / "runs"
        found.append(Stage(step, before, contents.all_held(runs), contents.leftovers(runs), passed))
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
        told.done.append((fault.what, fault.point.call, fault.point.file))
        told.lines.update(outcome.lines)
        wrong = [*_ill_told(fault, outcome, stage.step), *inspector.problems(run / "runs")]
        told.problems += [f"{stage.step.name}: {fault}: {line}" for line in wrong]
    outcome = server.given(stage.step.words, run, Recorder(run))
    told.lines.update(outcome.lines)
    left = [name for name in contents.leftovers(run / "runs") if name not in stage.left]
    wrong = [*inspector.problems(run / "runs"), *(f"{name} is left" for name in left)]
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
    if fault.what in KILLS:
        return [] if outcome.code == -signal.SIGKILL else [f"was not killed, but ended with {outcome.code}"]
    if outcome.code == step.ends:
        return []  # done without what could not be written: then everything else must be there and right
    if fault.what not in FAILS or outcome.code < 0 or "Traceback" in outcome.err:
        return [f"ended with {outcome.code}: {outcome.err}"]
    one = len(outcome.err.splitlines()) == 1 and outcome.err.startswith(kit.MARK)
    why = any(words in outcome.err for words in ("No space left", "Read-only file system"))
    return [] if one and why else [f"is not one clear line: {outcome.err!r}"]


def forked(tasks: Sequence[Callable[[Path], Any]], folder: Path) -> Iterator[Any]:
    """Results of tasks, done by as many processes as there are cores; each task is given its process's own path."""
    children = []
    for worker in range(WORKERS):
        results, trace = folder / f"worker-{worker}.json", folder / f"worker-{worker}.broke"

        def work(worker: int = worker, results: Path = results) -> int:
            results.write_text(json.dumps([task(folder / f"worker-{worker}") for task in tasks[worker::WORKERS]]))
            return 0

        children.append((child(work, trace), trace, results))
    for number, trace, results in children:
        code = ended(number)
        assert code == 0, f"a worker ended with {code}: {trace.read_text() if trace.exists() else ''}"
        yield from json.loads(results.read_text())


def main(library: Path, folder: Path, results: Path, which: str) -> None:
    """Everything; the results as JSON."""
    sys.modules["pyarrow"] = None  # type: ignore[assignment]  # which pandas loads where it is, and which has a thread
    with scenario.everything_on_disk():
        warm = folder / "warm"
        warm.mkdir(parents=True)
        (warm / "job.toml").write_text(scenario.JOB)
        for step in scenario.STEPS:  # loads, compiles and caches, so that children need not
            step.hurt(warm / "runs")
            done = kit.here(*step.words, cwd=warm)
            assert done.returncode == step.ends, f"{step.name}: {done.stderr}"
        while POOLS:
            POOLS.popitem()[1].shutdown()
        deadline = time.monotonic() + 30.0  # Python's threads are done a moment before the system's
        while (threads := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads == 1, f"{threads} threads are here, and children would lack all but one"
        gc.freeze()  # or each child would look through all of it, time and again
        server = Server(library, folder)
        found, lines = stages(server)
        choose: Callable[[Sequence[Fault]], Sequence[Fault]] = {"all": list, "one": OneEach()}[which]
        chains, known = [], set[Point]()
        for stage in found:
            faults = choose(faults_of(stage.passed, known))
            known |= {point for point, _ in stage.passed}
            for first in range(0, len(faults), CHAIN):
                chains.append(lambda run, s=stage, f=faults[first : first + CHAIN]: told_of(chain(server, s, f, run)))
        told = list(forked(chains, folder))
    lines |= {line for each in told for line in each["lines"]}
    kinds = {intercept.kind_of(f"runs/{name}", folder) for name in found[-1].after}
    late = [line for stage in found for line in unsynced(stage.passed)]
    results.write_text(json.dumps({"lines": sorted(lines), "told": told, "kinds": sorted(kinds), "unsynced": late}))
    points = len({point for stage in found for point, _ in stage.passed})
    print(f"{sum(len(each['done']) for each in told)} faults at {points} points, {len(kinds)} kinds of finished files")


def told_of(told: Told) -> dict[str, Any]:
    """For JSON."""
    return asdict(told) | {"lines": sorted(told.lines)}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])
