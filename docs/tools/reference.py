"""Parts of the reference that are made of the code when the site is built, so that they cannot be out of date."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

from gnnsoup_hpc.cli.commands import COMMANDS, EXIT_CODES, add_arguments
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.loading import fields

WIDTH = 100  # columns of --help


def list_job_fields() -> str:
    """A heading and a table for each table of a job: its fields, their types, defaults and meanings."""
    schema = Job.model_json_schema()
    lines: list[str] = []
    for table, about, rows in _list_tables(schema, schema["$defs"], dict(fields()), ""):
        lines += [f"## [{table}]" if table else "## The job itself", "", about, ""]
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _list_tables(
    section: dict[str, Any], named: dict[str, Any], about: dict[str, str], prefix: str
) -> Iterator[tuple[str, str, list[tuple[str, ...]]]]:
    """(name, meaning, rows) of a section and, after it, of each section that it holds."""
    rows: list[tuple[str, ...]] = []
    inner = []
    for name, field in section["properties"].items():
        if "$ref" in field:
            inner.append((f"{prefix}{name}", named[field["$ref"].rpartition("/")[2]]))
            continue
        default = "must be given" if name in section.get("required", ()) else _write(field.get("default", {}))
        rows.append((f"`{name}`", _describe_type(field), default, about[f"{prefix}{name}"]))
    yield prefix.rstrip("."), _begin_sentence(about.get(prefix.rstrip("."), "")), rows
    for name, table in inner:
        yield from _list_tables(table, named, about, f"{name}.")


def _describe_type(field: dict[str, Any]) -> str:
    """A field's type in words, of its JSON schema."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_describe_type(each) for each in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(_write(value) for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "anything")
    if kind == "array":
        items = field.get("items") or {}
        return f"list of: {_describe_type(items)}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false"}.get(kind, kind)
    ends = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {field[name]:.10g}" for name, sign in ends.items() if name in field)
    return f"{words} {bounds}" if bounds else {"object": "table", "null": "nothing"}.get(words, words)


def _write(value: object) -> str:
    """A value as a job file has it."""
    if isinstance(value, list | tuple):
        return f"`[{', '.join(_write(each).strip('`') for each in value)}]`"
    if isinstance(value, dict):
        return "`{}`" if not value else f"`{value}`"
    if value is None:
        return "none"
    return f'`"{value}"`' if isinstance(value, str) else f"`{str(value).lower()}`"


def _begin_sentence(text: str) -> str:
    """A description with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def list_commands() -> str:
    """A heading and the --help of each command."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)  # what argparse asks for the width
    lines = []
    try:
        for name, about in COMMANDS.items():
            parser = argparse.ArgumentParser(prog=f"gnnsoup {name}", description=about)
            add_arguments(parser, name)
            lines += [f"## gnnsoup {name}", "", "```text", parser.format_help().rstrip(), "```", ""]
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n".join([*lines, "## Exit codes", "", _begin_sentence(EXIT_CODES.partition(": ")[2])])


def list_python() -> str:
    """The public names, for mkdocstrings to fill in."""
    from gnnsoup_hpc import api

    return "\n\n".join(_show(name) for name in api.__all__)


def _show(name: str) -> str:
    if name == "Job":  # its fields have a page of their own
        return f"::: gnnsoup_hpc.api.{name}\n    options:\n      members: false"
    return f"::: gnnsoup_hpc.api.{name}"


PARTS: dict[str, Callable[[], str]] = {
    "job fields": list_job_fields,
    "commands": list_commands,
    "python": list_python,
}
