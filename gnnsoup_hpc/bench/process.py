"""Fresh processes: an order as JSON goes in on stdin, figures as JSON come out; a failure is one line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gnnsoup_hpc.bench.task import Order, QualityOrder

SHARE_OF_MEMORY = 0.9
_LAST_OF_A_TRACEBACK = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
_LONGEST = 300
# Stock PyG's threads wait as libgomp has them wait by default, not as this package does (gnnsoup_hpc/__init__.py).
_AS_STOCK = ("env", "-u", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT=300000")


class ChildFailedError(Exception):
    """A child that gave no result; the message is one line."""


@dataclass
class Figures:
    """What children measured of one thing: a result a time pass, that of the memory pass, and what went wrong."""

    times: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def above_baseline_bytes(self) -> float | None:
        """Peak memory above the baseline, where it is known."""
        peak, baseline = self.memory.get("peak_bytes"), self.memory.get("baseline_bytes")
        return None if peak is None or baseline is None else peak - baseline


def measure(
    order: Order | QualityOrder, figures: Figures, label: str, timeout: float, say: Callable[[str], None]
) -> None:
    """Have a fresh process measure, and say one line: figures, or what failed. What failed once is given up."""
    if figures.errors:
        return  # it would fail again, often after as long
    try:
        result = run_child(order, timeout)
    except ChildFailedError as error:
        figures.errors.append(f"{order.passing}: {error}")
        say(f"{label}, {order.passing}: failed: {error}")
        return
    if order.passing == "time":
        figures.times.append(result)
        words = order.describe_time(result)
    else:
        figures.memory = result
        above = figures.above_baseline_bytes
        words = "-" if above is None else f"{above / 1e6:.1f} MB above the baseline"
    say(f"{label}, {order.passing}: {words}")


def run_child(order: Order | QualityOrder, timeout: float) -> dict[str, Any]:
    """What a fresh process measures.

    Raises: ChildFailedError where it gives no result in time, with its own last words or what ended it.
    """
    command = [*(_AS_STOCK if order.as_stock else ()), sys.executable, "-m", "gnnsoup_hpc.bench.child"]
    try:
        child = subprocess.run(
            command, input=json.dumps(asdict(order)), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise ChildFailedError(f"not done after {timeout:.0f} s (--timeout)") from None
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = ", by the kernel for want of memory as a rule" if name == "SIGKILL" else ""
        raise ChildFailedError(f"ended by {name}{hint}")
    if child.returncode:
        raise ChildFailedError(_last_words(child.stderr) or f"exit code {child.returncode}")
    try:
        result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise ChildFailedError("no result on its output") from None
    return result


def free_memory() -> int:
    """What one process may fill: most of what is available now; 0, without bound, where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "0")
    return int(SHARE_OF_MEMORY * 1024 * int(available))


def _last_words(stderr: str) -> str:
    """The line that says what went wrong: of a traceback the error's, since messages may go on for many lines."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if _LAST_OF_A_TRACEBACK.match(line)]
    return (errors or lines or [""])[-1][:_LONGEST]
