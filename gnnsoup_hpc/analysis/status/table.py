"""How a run stands, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from gnnsoup_hpc.analysis.status.look import SoupStatus, Status
from gnnsoup_hpc.analysis.status.piece import TaskStatus

FEW = 32  # of more ingredients, those that are finished or wait are counted and not listed
_COUNTED = ("finished", "waiting")
_ORDER = ("finished", "running", "silent", "failed", "damaged", "waiting")
_HEAD = ("ingredient", "state", "where", "epoch", "validation", "seconds", "s/epoch", "heartbeat", "since", "")


def as_json(status: Status) -> dict[str, Any]:
    """Everything, for programs. Times are seconds since 1970, ages and durations seconds; null = not known."""
    counts = {state: status.counts[state] for state in _ORDER}
    return asdict(status) | {"counts": counts}


def table(status: Status, everything: bool = False) -> str:
    """How the run stands; `everything`: each ingredient a line, however many there are."""
    listed = [
        piece
        for piece in status.ingredients
        if everything or len(status.ingredients) <= FEW or piece.state not in _COUNTED
    ]
    summary = [
        ("graph", _graph(status)),
        *([("trunk", _in_words(status.trunk))] if status.trunk else []),
        ("ingredients", f"{len(status.ingredients)}: {_counted(status.counts)}"),
        ("soups", _soups(status.soups)),
        ("report", status.report),
        ("training ends", _end(status)),
    ]
    width = max(len(name) for name, _ in summary)
    lines = [status.root, *(f"{name:<{width}}  {text}" for name, text in summary)]
    if listed:
        lines += ["", *_left_aligned([_HEAD, *(_row(status, piece) for piece in listed)])]
    if status.cells:
        lines += ["", *_left_aligned([("cell", *_HEAD[1:]), *(_row(status, piece) for piece in status.cells)])]
    if status.own_clock and any(piece.heartbeat_seconds is not None for piece in status.ingredients):
        lines += ["", "heartbeats are told by this machine's clock: nothing can be written to leases/ to ask its own"]
    return "\n".join(lines)


def _graph(status: Status) -> str:
    if status.sizes is not None:
        return f"prepared: {status.sizes.nodes} nodes, {status.sizes.entries} entries, {status.sizes.parts} parts"
    return "not prepared" if status.graph.state == "waiting" else _in_words(status.graph)


def _in_words(piece: TaskStatus) -> str:
    """A piece of work of which there is one."""
    words: list[str] = [piece.state]
    if piece.host:
        words.append(_where(piece))
    if piece.epoch is not None:
        words.append(f"epoch {piece.epoch} of {piece.epochs}")
    if piece.heartbeat_seconds is not None:
        words.append(f"heartbeat {_lasting(piece.heartbeat_seconds)} ago")
    return ", ".join([*words, *([piece.why] if piece.why else [])])


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


def _row(status: Status, piece: TaskStatus) -> tuple[str, ...]:
    done = piece.epochs if piece.state == "finished" else piece.epoch
    return (
        piece.title if piece.work.startswith("cell-") else piece.work.removeprefix("ingredient-"),
        piece.state,
        _where(piece),
        "-" if not piece.epochs else f"{'-' if done is None else done}/{piece.epochs}",
        _number(piece.validation, ".4f"),
        _number(piece.seconds, ".1f"),
        _number(piece.epoch_seconds, ".3g"),
        "-" if piece.heartbeat_seconds is None else f"{_lasting(piece.heartbeat_seconds)} ago",
        _moment(status, piece.since),
        _why(status, piece),
    )


def _where(piece: TaskStatus) -> str:
    if not piece.host:
        return "-"
    return piece.host if piece.rank is None else f"rank {piece.rank}, {piece.host}"


def _why(status: Status, piece: TaskStatus) -> str:
    kept = "from a checkpoint on" if piece.checkpoint else ""
    if not piece.why or piece.state == "damaged":
        return piece.why or kept
    times = f", {piece.tries} times" if piece.tries > 1 else ""
    when = f"failed {_moment(status, piece.failed_at)}{times}: " if piece.failed_at is not None else ""
    return f"{when}{piece.why}"


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


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _left_aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
