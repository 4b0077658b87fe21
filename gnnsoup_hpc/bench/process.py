"""Fresh processes: an order as JSON goes in on stdin, figures as JSON come out; a failure is one line."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnnsoup_hpc.errors import SoupError

SHARE_OF_MEMORY = 0.9
_LAST_OF_A_TRACEBACK = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
_LONGEST = 300
# Stock PyG's threads wait as libgomp has them wait by default, not as this package does (gnnsoup_hpc/__init__.py).
_AS_STOCK = ("env", "-u", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT=300000")


class ChildFailedError(Exception):
    """A child that gave no result; the message is one line."""


def answer(module: str, order: str, timeout: float, as_stock: bool) -> dict[str, Any]:
    """What `python -m module` makes of an order in a fresh process.

    Raises: ChildFailedError where it gives no result in time, with its own last words or what ended it.
    """
    command = [*(_AS_STOCK if as_stock else ()), sys.executable, "-m", module]
    try:
        child = subprocess.run(command, input=order, capture_output=True, text=True, timeout=timeout, check=False)
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


def serve(work: Callable[[str], dict[str, Any]]) -> int:
    """The child's side: its exit code."""
    try:
        result = work(sys.stdin.read())
    except SoupError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


def bound_memory(limit: int) -> None:
    """Bound this process's private memory to `limit` bytes; 0 = unbounded.

    What does not fit is then told so by the allocator, where the kernel would kill it or a neighbour.
    """
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


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
