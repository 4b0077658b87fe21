"""How a run stands, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from gnnsoup_hpc.analysis.status.read import SoupStatus, Status, TaskStatus
from gnnsoup_hpc.config.task import WORDS
from gnnsoup_hpc.utils.text_table import align_columns, show_number

FEW = 32  # of more ingredients, those that are finished or wait are counted and not listed
_COUNTED = ("finished", "waiting")
_ORDER = ("finished", "running", "silent", "failed", "damaged", "waiting")
_HEAD = ("state", "where", "epoch", "validation", "seconds", "s/epoch", "heartbeat", "since", "")


def make_json(status: Status) -> dict[str, Any]:
    """Everything, for programs. Times are seconds since 1970, ages and durations seconds; null = not known."""
    return asdict(status) | {"counts": _count_states(status)}


def show_status(status: Status, everything: bool = False) -> str:
    """How the run stands; `everything`: each ingredient a line, however many there are."""
    everything |= len(status.ingredients) <= FEW
    listed = [task for task in status.ingredients if everything or task.state not in _COUNTED]
    summary = [
        ("graph", _describe_graph(status)),
        *([("trunk", _describe_trunk(status))] if status.trunk else []),
        ("ingredients", _describe_counts(status)),
        *(("soups", f"joint/{joint.name}: {_describe_soups(joint.soups)}") for joint in status.joint_runs),
        *([] if status.joint_runs else [("soups", _describe_soups(status.soups))]),
        ("report", status.report),
        ("training ends", _describe_end(status)),
    ]
    lines = [status.root, *map(str.rstrip, align_columns(summary, left=None))]
    if runs := _list_runs(status, everything):
        lines += ["", *map(str.rstrip, align_columns([("run", "ingredients"), *runs], left=None))]
    for head, tasks in (("ingredient", listed), ("cell", status.cells)):
        if tasks:
            rows = align_columns([(head, *_HEAD), *(_make_row(status, task) for task in tasks)], left=None)
            lines += ["", *map(str.rstrip, rows)]
    if status.own_clock and any(task.heartbeat_seconds is not None for task in status.ingredients):
        about = "heartbeats are measured by this machine's clock: nothing can be written to leases/ to ask its own"
        lines += ["", about]
    return "\n".join(lines)


def _count_states(status: Status) -> dict[str, int]:
    return {state: sum(task.state == state for task in status.ingredients) for state in _ORDER}


def _describe_counts(status: Status) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in _count_states(status).items() if count)
    return f"{len(status.ingredients)}: {counts}"


def _list_runs(status: Status, everything: bool) -> list[tuple[str, str]]:
    """A row a run of a sweep of training; of many those that are begun and not finished."""
    everything |= len(status.grid) <= FEW
    states = {each.name: {task.state for task in each.ingredients} for each in status.grid}
    listed = [each for each in status.grid if everything or states[each.name] not in ({"finished"}, {"waiting"})]
    return [(each.name, _describe_counts(each)) for each in listed]


def _describe_trunk(status: Status) -> str:
    """The trunk; of a sweep how many are finished, and one that is not."""
    task = status.trunk
    if task is None or not status.grid:
        return _describe_task(task) if task else ""
    trunks = [each.trunk for each in status.grid if each.trunk]
    finished = sum(each.state == "finished" for each in trunks)
    other = "" if task.state == "finished" else f"; {task.work}: {_describe_task(task)}"
    return f"{finished} of {len(trunks)} finished{other}"


def _describe_graph(status: Status) -> str:
    if status.sizes is not None:
        return f"prepared: {status.sizes.nodes} nodes, {status.sizes.entries} entries, {status.sizes.parts} parts"
    return "not prepared" if status.graph.state == "waiting" else _describe_task(status.graph)


def _describe_task(task: TaskStatus) -> str:
    """A task of work of which there is one."""
    epoch = "" if task.epoch is None else f"epoch {task.epoch} of {task.epochs}"
    age = "" if task.heartbeat_seconds is None else f"heartbeat {_show_duration(task.heartbeat_seconds)} ago"
    part = task.title.partition(" (")[2].removesuffix(")")
    words = (task.state, _describe_place(task) if task.host else "", part, epoch, age, task.why)
    return ", ".join(filter(None, words))


def _describe_soups(soups: Sequence[SoupStatus]) -> str:
    made = [f"{soup.method} {soup.validation:.4f}" for soup in soups if soup.made]
    metrics = dict.fromkeys(WORDS.get(soup.metric, soup.metric) for soup in soups if soup.made)  # type: ignore[call-overload]
    named = "" if [*metrics] in ([], [WORDS["accuracy"]]) else f" {', '.join(metrics)}"
    lists = {
        f"validation{named}": made,
        "missing": [soup.method for soup in soups if not soup.made and not soup.why],
        "combinations": [f"{s.method} {s.combinations_made} of {s.combinations}" for s in soups if s.combinations],
    }
    words = [f"{what} {', '.join(listed)}" for what, listed in lists.items() if listed]
    return "; ".join([f"{len(made)} of {len(soups)} made", *words, *(soup.why for soup in soups if soup.why)])


def _describe_end(status: Status) -> str:
    left = status.estimate
    if left.seconds is None:
        return f"unknown: {left.why}"
    if left.seconds == 0.0:
        return left.why
    end = datetime.fromtimestamp(status.now + left.seconds)
    return f"in about {_show_duration(left.seconds)}, {end:%Y-%m-%d %H:%M} ({left.why})"


def _make_row(status: Status, task: TaskStatus) -> tuple[str, ...]:
    done = task.epochs if task.state == "finished" else task.epoch
    return (
        task.title if task.work.startswith("cell-") else task.work.replace("ingredient-", ""),
        task.state,
        _describe_place(task),
        "-" if not task.epochs else f"{'-' if done is None else done}/{task.epochs}",
        show_number(task.validation, ".4f"),
        show_number(task.seconds, ".1f"),
        show_number(task.epoch_seconds, ".3g"),
        "-" if task.heartbeat_seconds is None else f"{_show_duration(task.heartbeat_seconds)} ago",
        _show_moment(status, task.since),
        _describe_reason(status, task),
    )


def _describe_place(task: TaskStatus) -> str:
    if not task.host:
        return "-"
    return task.host if task.rank is None else f"rank {task.rank}, {task.host}"


def _describe_reason(status: Status, task: TaskStatus) -> str:
    kept = "from a checkpoint on" if task.checkpoint else ""
    if not task.why or task.state == "damaged":
        return task.why or kept
    times = f", {task.tries} times" if task.tries > 1 else ""
    when = f"failed {_show_moment(status, task.failed_at)}{times}: " if task.failed_at is not None else ""
    return f"{when}{task.why}"


def _show_moment(status: Status, when: float | None) -> str:
    """A time of today, or a date and a time."""
    if when is None:
        return "-"
    then, now = datetime.fromtimestamp(when), datetime.fromtimestamp(status.now)
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def _show_duration(seconds: float) -> str:
    """A duration for people: "12 s", "3 min", "2:05 h", "3 days"."""
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    if seconds < 3600.0:
        return f"{seconds / 60.0:.0f} min"
    minutes = round(seconds / 60.0)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes < 1440 else f"{minutes / 1440:.1f} days"
