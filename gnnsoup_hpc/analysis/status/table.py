"""How a run stands, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from gnnsoup_hpc.analysis.status.read import SoupStatus, Status, TaskStatus
from gnnsoup_hpc.utils.text_table import align_columns, show_number

FEW = 32  # of more ingredients, those that are finished or wait are counted and not listed
_COUNTED = ("finished", "waiting")
_ORDER = ("finished", "running", "silent", "failed", "damaged", "waiting")
_HEAD = ("state", "where", "epoch", "validation", "seconds", "s/epoch", "heartbeat", "since", "")


def as_json(status: Status) -> dict[str, Any]:
    """Everything, for programs. Times are seconds since 1970, ages and durations seconds; null = not known."""
    counts = {state: status.counts[state] for state in _ORDER}
    return asdict(status) | {"counts": counts}


def table(status: Status, everything: bool = False) -> str:
    """How the run stands; `everything`: each ingredient a line, however many there are."""
    listed = [
        task
        for task in status.ingredients
        if everything or len(status.ingredients) <= FEW or task.state not in _COUNTED
    ]
    summary = [
        ("graph", _graph(status)),
        *([("trunk", _in_words(status.trunk))] if status.trunk else []),
        ("ingredients", f"{len(status.ingredients)}: {_counted(status.counts)}"),
        ("soups", _soups(status.soups)),
        ("report", status.report),
        ("training ends", _end(status)),
    ]
    lines = [status.root, *map(str.rstrip, align_columns(summary, left=None))]
    for head, tasks in (("ingredient", listed), ("cell", status.cells)):
        if tasks:
            rows = align_columns([(head, *_HEAD), *(_row(status, task) for task in tasks)], left=None)
            lines += ["", *map(str.rstrip, rows)]
    if status.own_clock and any(task.heartbeat_seconds is not None for task in status.ingredients):
        lines += ["", "heartbeats are told by this machine's clock: nothing can be written to leases/ to ask its own"]
    return "\n".join(lines)


def _graph(status: Status) -> str:
    if status.sizes is not None:
        return f"prepared: {status.sizes.nodes} nodes, {status.sizes.entries} entries, {status.sizes.parts} parts"
    return "not prepared" if status.graph.state == "waiting" else _in_words(status.graph)


def _in_words(task: TaskStatus) -> str:
    """A task of work of which there is one."""
    words: list[str] = [task.state]
    if task.host:
        words.append(_where(task))
    if task.epoch is not None:
        words.append(f"epoch {task.epoch} of {task.epochs}")
    if task.heartbeat_seconds is not None:
        words.append(f"heartbeat {_lasting(task.heartbeat_seconds)} ago")
    return ", ".join([*words, *([task.why] if task.why else [])])


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])


def _soups(soups: Sequence[SoupStatus]) -> str:
    made = [f"{soup.method} {soup.validation:.4f}" for soup in soups if soup.made]
    missing = [soup.method for soup in soups if not soup.made and not soup.why]
    words = [f"{len(made)} of {len(soups)} made"]
    if made:
        words.append(f"validation {', '.join(made)}")
    if missing:
        words.append(f"missing {', '.join(missing)}")
    swept = [f"{s.method} {s.combinations_made} of {s.combinations}" for s in soups if s.combinations]
    words += [f"combinations {', '.join(swept)}"] if swept else []
    return "; ".join([*words, *(soup.why for soup in soups if soup.why)])


def _end(status: Status) -> str:
    left = status.estimate
    if left.seconds is None:
        return f"not to be told: {left.why}"
    if left.seconds == 0.0:
        return left.why
    end = datetime.fromtimestamp(status.now + left.seconds)
    return f"in about {_lasting(left.seconds)}, {end:%Y-%m-%d %H:%M} ({left.why})"


def _row(status: Status, task: TaskStatus) -> tuple[str, ...]:
    done = task.epochs if task.state == "finished" else task.epoch
    return (
        task.title if task.work.startswith("cell-") else task.work.removeprefix("ingredient-"),
        task.state,
        _where(task),
        "-" if not task.epochs else f"{'-' if done is None else done}/{task.epochs}",
        show_number(task.validation, ".4f"),
        show_number(task.seconds, ".1f"),
        show_number(task.epoch_seconds, ".3g"),
        "-" if task.heartbeat_seconds is None else f"{_lasting(task.heartbeat_seconds)} ago",
        _moment(status, task.since),
        _why(status, task),
    )


def _where(task: TaskStatus) -> str:
    if not task.host:
        return "-"
    return task.host if task.rank is None else f"rank {task.rank}, {task.host}"


def _why(status: Status, task: TaskStatus) -> str:
    kept = "from a checkpoint on" if task.checkpoint else ""
    if not task.why or task.state == "damaged":
        return task.why or kept
    times = f", {task.tries} times" if task.tries > 1 else ""
    when = f"failed {_moment(status, task.failed_at)}{times}: " if task.failed_at is not None else ""
    return f"{when}{task.why}"


def _moment(status: Status, when: float | None) -> str:
    """A time of today, or a date and a time."""
    if when is None:
        return "-"
    then, now = datetime.fromtimestamp(when), datetime.fromtimestamp(status.now)
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def _lasting(seconds: float) -> str:
    """A duration for people: "12 s", "3 min", "2:05 h", "3 days"."""
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    if seconds < 3600.0:
        return f"{seconds / 60.0:.0f} min"
    minutes = round(seconds / 60.0)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes < 1440 else f"{minutes / 1440:.1f} days"
