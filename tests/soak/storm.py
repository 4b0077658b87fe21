"""A run of many ingredients, and what happens to its ranks meanwhile: kills, pleas to stop, pauses, seeded and counted.

The same command is given again until all is there. A file that was published is watched: should it ever be another one
afterwards, something finished was made twice.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import contents, kit
from tests.faults.kit import JOB, Workdir
from tests.processes import Gate
from tests.tiny import mpirun

GUARD = 1800.0  # seconds until a storm is said never to end
_RESUMED = re.compile(r"goes on after epoch")
_TRAINED = re.compile(r"ingredient \d+ done")
_SECONDS = (0.2, 2.5)  # from when a rank was seen to work until the next event
_PAUSE = (0.5, 2.0)


@dataclass(frozen=True)
class Plan:
    """How large the run is and how wild the storm."""

    ingredients: int
    epochs: int
    kills: int  # at least, while training; whatever follows is left alone
    souping_kills: int
    ranks: int = 4
    seed: int = 0

    @property
    def words(self) -> list[str]:
        """What the command says beside the job."""
        sets = (f"train.ingredients={self.ingredients}", f"train.epochs={self.epochs}", "train.checkpoint_seconds=0.1")
        return [word for each in (*sets, "soup.methods=['uniform', 'gis', 'pls']") for word in ("--set", each)]


@dataclass
class Storm:
    """One disturbed run in a folder; `counts` says what happened, `problems` what must not."""

    workdir: Workdir
    plan: Plan
    say: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.plan.seed)
        self._seen: dict[Path, tuple[int, int]] = {}
        self._log = self.workdir.folder / "said.txt"
        self._until = time.monotonic() + GUARD
        self._gate = Gate(
            self.workdir.folder / "gate"
        )  # or a quick machine had trained all before there were kills enough

    def blow(self) -> None:
        """Train, then soup, through everything; the last command of each is left alone once there were enough kills."""
        self._through("train", self.plan.kills, self._trained)
        self._through("run", self.plan.kills + self.plan.souping_kills, lambda: self.workdir.report.exists())
        said = self._log.read_text(errors="replace")
        self.counts["resumed"] = len(_RESUMED.findall(said))
        self.counts["trained"] = len(_TRAINED.findall(said))

    @property
    def kills(self) -> int:
        """Kills until now, of a rank or of all."""
        return self.counts["kill"] + self.counts["kill all"]

    def _trained(self) -> bool:
        return all(self.workdir.ingredient(index).exists() for index in range(self.plan.ingredients))

    def _through(self, command: str, kills: int, done: Callable[[], bool]) -> None:
        """Give the command until it ends well: by one launcher or as processes of their own, as it is drawn."""
        while True:
            together = command == "run" or self._draw.random() < 0.5
            jobs = self._started(command, together)
            self.counts["launched together" if together else "launched apart"] += 1
            self._disturb(jobs, kills, done)
            if self.kills >= kills:
                self._gate.open()
            codes = [job.wait() for job in jobs]
            self._look()
            if not any(codes):
                return
            assert time.monotonic() < self._until, f"no end after {GUARD:.0f} s: {self._log.read_text()[-2000:]}"

    def _started(self, command: str, together: bool) -> list[subprocess.Popen[bytes]]:
        ranks = self.plan.ranks if command == "train" else 2
        one = [sys.executable, "-m", "gnnsoup_hpc", command, JOB, *self.plan.words]
        words = [mpirun(), "-n", str(ranks), *one] if together else one
        with self._log.open("ab") as log:
            return [
                subprocess.Popen(
                    words,
                    cwd=self.workdir.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"OMP_NUM_THREADS": "1"} | self._gate.variables(self.plan.ingredients - 1),
                    start_new_session=True,
                )
                for _ in range(1 if together else ranks)
            ]

    def _disturb(self, jobs: list[subprocess.Popen[bytes]], kills: int, done: Callable[[], bool]) -> None:
        """Do one thing after another to what runs, until it has ended or there were kills enough."""
        while self.kills < kills and self._living(jobs) and not done():
            self._waited(self._draw.uniform(*_SECONDS), jobs)
            ranks = [pid for job in self._living(jobs) for pid in family(job.pid) if is_rank(pid)]
            if ranks:
                self._event(ranks, jobs)

    def _waited(self, seconds: float, jobs: list[subprocess.Popen[bytes]]) -> None:
        """Some seconds, counted from when a rank is at work."""
        leases = self.workdir.root / "leases"
        while self._living(jobs) and not any(leases.glob("*.lease")) and not self._trained():
            time.sleep(0.05)
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._living(jobs):
            self._look()
            time.sleep(0.05)

    def _event(self, ranks: list[int], jobs: list[subprocess.Popen[bytes]]) -> None:
        what = self._draw.choices(["kill", "kill all", "stop", "pause"], [6, 2, 1, 1])[0]
        rank = self._draw.choice(sorted(ranks))
        self.counts[what] += 1
        self.say(f"{what} {'' if what == 'kill all' else f'rank {sorted(ranks).index(rank)} of {len(ranks)}'}".strip())
        if what == "kill all":
            for pid in {*ranks, *(pid for job in jobs for pid in family(job.pid))}:
                sent(pid, signal.SIGKILL)
        elif what == "pause":
            sent(rank, signal.SIGSTOP)
            time.sleep(self._draw.uniform(*_PAUSE))
            sent(rank, signal.SIGCONT)
        else:
            asking = self._draw.choice([signal.SIGTERM, signal.SIGUSR1])
            sent(rank, signal.SIGKILL if what == "kill" else asking)

    def _living(self, jobs: list[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
        return [job for job in jobs if job.poll() is None]

    def _look(self) -> None:
        """See that no ingredient that was there is another one now."""
        for index in range(self.plan.ingredients):
            path = self.workdir.ingredient(index)
            try:
                about = path.stat()
            except FileNotFoundError:
                if path in self._seen:
                    self.problems.append(f"{path.name} was there and is gone")
                continue
            now = about.st_ino, about.st_mtime_ns
            if self._seen.setdefault(path, now) != now:
                self.problems.append(f"{path.name} was there and was made again")
                self._seen[path] = now


def family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(below for child in children for below in family(int(child)))]


def is_rank(pid: int) -> bool:
    """Whether a process runs this package, and no launcher."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"gnnsoup_hpc" in words and b"python" in Path(os.fsdecode(words[0])).name.encode()


def sent(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def quiet(folder: Path, plan: Plan) -> Workdir:
    """The same run, undisturbed."""
    workdir = kit.make_workdir(folder)
    kit.succeeds(workdir.gnnsoup_here("run", *plan.words))
    return workdir


def differences(storm: Storm, calm: Workdir) -> list[str]:
    """What is lost, damaged, other than in the undisturbed run, or left over."""
    disturbed, wanted = contents.all_held(storm.workdir.folder / "runs"), contents.all_held(calm.folder / "runs")
    found = [f"{name} is {'missing' if name in wanted else 'too much'}" for name in disturbed.keys() ^ wanted.keys()]
    for name in sorted(disturbed.keys() & wanted.keys()):
        items = {item for item, value in wanted[name].items() ^ disturbed[name].items() if not item.endswith(RANKS)}
        found += [f"{name} is another in {', '.join(sorted(items)[:4])}"] if items else []
    return found + [f"{name} is left" for name in contents.leftovers(storm.workdir.folder / "runs")]


# What says by how many ranks, or which one, something was made; a soup's recipe depends on it.
RANKS = ("@rank", "@ranks", "@recipe", "@slurm_job", "ranks", "rank", "recipe")
