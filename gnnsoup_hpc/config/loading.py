"""Job files: found, read, overridden, and explained. One TOML file is one complete, named experiment.

An unknown key is an error that names the key and the nearest known one; so is a text that is none of those allowed.
"""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gnnsoup_hpc.config import Job, Section, SweepJob, find_nearest, find_nearest_value
from gnnsoup_hpc.errors import JobError, MissingJobError
from gnnsoup_hpc.utils.paths import expand_home, find_bundled

SWEEP_EXAMPLES = {
    "seed": "[0, 1, 2]",
    "gis": "{}",
    "ls": "{}",
    "pls": "{ learning_rate = [0.1, 0.3], union = [4, 8] }",
    "distil": '{ start = ["uniform", "ls"], dropout = [0.3, 0.5] }',
    "train": "{ learning_rate = [0.01, 0.005], seed = [0, 1] }",
    "model": "{ hidden = [64, 128] }",
}
TEXT_FIELDS = ("name", "runs", "graph.source", "graph.root", "machine.memory_limit", "model.revision", "model.folder")
# A text without quotes, as far as a comma, a bracket or the end: gin, pt:graph.pt, 2 GiB.
_BARE_WORD = re.compile(r"""(?<!["'\w])(?:[\d.]+\s*)?[A-Za-z~/$][^"',=\[\]{}]*?(?=\s*(?:[,\]}]|$))""")
Check = Callable[[Job, str], None]
Named = str | os.PathLike[str] | Mapping[str, Any]  # a job: its file, a bundled one, or what a file would hold


def load(
    named: Named | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    kinds: Sequence[str] = (),
    check: Check | None = None,
) -> Job:
    """The job of a TOML file's path or a bundled job's name (default `pubmed`), or of tables, with overrides applied.

    overrides: `a.b=value` each, as `--set` has them, or values by dotted names. `kinds` are those that model.kind may
    be, where they are given; `check` is given the job and what an error begins with. models/ has both.
    Raises: JobError naming the file, the key and what is allowed.
    """
    if isinstance(named, Mapping):
        where, tree, folder = "the job", copy.deepcopy(dict(named)), Path.cwd()
    else:
        path = find(os.fspath(named) if named else "pubmed")
        where, tree, folder = str(path), _read(path), path.resolve().parent
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _put(tree, key, copy.deepcopy(value), f"override {key!r}")
        said = [f"{key}={value!r}" for key, value in overrides.items()]
    else:
        for text in overrides:
            override(tree, text)
        said = list(overrides)
    model = tree.get("model")
    if isinstance(model, dict) and model.get("factory") and not model.get("folder"):
        model["folder"] = str(folder)
    where = f"{where} with {', '.join(said)}" if said else where
    job = validate(tree, where, kinds)
    if check is not None:
        check(job, where)
    return job


def _read(path: Path) -> dict[str, Any]:
    """The tables of a file of TOML."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark in front
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: not UTF-8 text (at byte {error.start}): save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path}: not valid TOML: {error}{_show_quoted(text, error)}") from None
    except OSError as error:
        raise MissingJobError(f"{path}: cannot be read: {error.strerror}") from None


def _show_quoted(text: str, error: tomllib.TOMLDecodeError) -> str:
    """The line that an error of TOML is at with its words in quotes, if that is right; else ""."""
    found = re.search(r"at line (\d+)", str(error))
    key, equals, value = (text.split("\n")[int(found[1]) - 1] if found else "").partition("#")[0].partition("=")
    line = f"{key.strip()} = {_BARE_WORD.sub(_quote, value.strip())}"
    try:
        tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ""
    return f": text stands in quotes, true and false in small letters: {line}" if equals else ""


def _quote(word: re.Match[str]) -> str:
    """A bare word as TOML wants it."""
    return word[0].lower() if word[0].lower() in ("true", "false") else f'"{word[0]}"'


def validate(tree: Mapping[str, Any], where: str, kinds: Sequence[str] = ()) -> Job:
    """The job that `tree` describes; `where` begins the message of an error, `kinds` are those of models."""
    try:
        return Job.model_validate(tree, context=kinds)
    except ValidationError as error:
        raise JobError(f"{where}: {explain_error(error)}") from None


def explain_error(error: ValidationError, section: type[Section] = Job) -> str:
    """What is wrong with the tables of a section, in a line."""
    items = error.errors()  # of a list whose items are wrong, what is left of it is no news
    items = [item for item in items if not any(_is_about_an_item(other, item) for other in items)]
    return "; ".join(_explain(item, section) for item in items)


def find(text: str) -> Path:
    """Path of the job that `text` names: a file, or else a bundled job."""
    path, bundled = expand_home(text), {job.stem: job for job in bundled_jobs()}
    try:
        if path.is_file():
            return path
        kept = next((job for job in (path / "job.toml", Path("runs") / path / "job.toml") if job.is_file()), None)
        link = os.readlink(path) if path.is_symlink() else ""
    except OSError as error:  # too long a name, a folder that may not be looked into
        raise MissingJobError(f"{path}: cannot be read: {error.strerror}") from None
    if text in bundled:
        return bundled[text]
    hint = f"the bundled job {path.stem!r} needs no path" if path.stem in bundled else f"bundled: {', '.join(bundled)}"
    hint = f"the job of that run is {str(kept)!r}" if kept else hint
    hint = f"it is a link to {link!r}, where no file is" if link else hint
    raise MissingJobError(f"there is no job file {text!r} here ({Path.cwd()}); {hint}")


def bundled_jobs() -> list[Path]:
    """The job files that come with the package: beside it in a checkout, inside it once installed."""
    return sorted(find_bundled("jobs/pubmed.toml").parent.glob("*.toml"))


def fields(section: type[Section] = Job, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, description) of every field, tables before what they hold."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}", " ".join((field.description or "").split())
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation, f"{prefix}{name}.")


def explain(job: Job) -> str:
    """The resolved job as TOML, each field's description as a comment above it."""
    about, table, lines = dict(fields()), "", []
    swept = {name: name.replace("soup", "sweep", 1) for name in about if name.startswith("soup")}
    swept |= {name: f"sweep.{name}" for name in about if name.startswith(("train.", "model."))}
    about = {swept[name]: text for name, text in about.items() if name in swept} | about
    for line in job.to_toml().split("\n"):
        if line.startswith("["):
            table = line.strip("[]") + "."
            lines += [f"# {about[table[:-1]]}"] if table[:-1] in about else []
        elif " = " in line:
            told = about.get(table + line.split(" = ")[0])  # model.arguments has keys of the user's own
            lines += [f"# {told}"] if told else []
        lines.append(line)
    if not job.sweep:  # what could be said of one
        lines += [f"# {about['sweep']}", "# [sweep]"]
        for key, value in SWEEP_EXAMPLES.items():
            lines += [f"# {about[f'sweep.{key}']}", f"# {key} = {value}"]
        lines.append("")
    return "\n".join(lines)


def override(tree: dict[str, Any], text: str) -> None:
    """Set `a.b=value` in a job's tables; a value is text where it is no TOML, or the field wants text (`name=2024`)."""
    key, equals, words = (part.strip() for part in text.partition("="))
    if not equals or not key.rpartition(".")[2]:
        raise JobError(f"--set {text!r}: expected KEY=VALUE, for example soup.pls.union=8")
    value: Any = words
    with suppress(tomllib.TOMLDecodeError):
        read = tomllib.loads(f"value = {words}")["value"]
        if isinstance(read, str) or key not in TEXT_FIELDS:
            value = read
    _put(tree, key, value, f"--set {text!r}")


def _put(tree: dict[str, Any], key: str, value: Any, said: str) -> None:
    """Set the field of a dotted name, in place of what it is; `said` begins the message of an error."""
    *tables, last = key.split(".")
    for name in tables:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise JobError(f"{said}: {name!r} is a value, not a table")
    tree[last] = value


def _is_about_an_item(error: Any, other: Any) -> bool:
    """Whether an error is of an item of a list that the other one is about."""
    place = tuple(other["loc"])
    return len(error["loc"]) > len(place) and tuple(error["loc"][: len(place)]) == place


def _explain(item: Any, section: type[Section]) -> str:
    """One validation error as `key: what is wrong`, with the nearest known key, or value, for an unknown one."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        if item["loc"][0] == "sweep" and item["loc"][1:] in [(name,) for name in Job.model_fields]:
            return (
                f"{key} cannot be swept: [sweep] has lists for {', '.join(SweepJob.model_fields)}; give each value of"
                f" {key.removeprefix('sweep.')} a job of its own (--set name=…), and compare them by `gnnsoup report"
                " RUN RUN`"
            )
        return f"unknown key {key!r}{find_nearest(key, [name for name, _ in fields(section)])}"
    if item["type"] == "missing":
        return f"the key {key!r} is missing"
    message = str(item["msg"]).removeprefix("Value error, ").replace("a valid tuple", "a list")
    message = message.replace("Tuple", "List").replace("a valid dictionary", "a table")
    if item["type"] in ("model_type", "model_attributes_type"):
        message = "Input should be a table"
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if item["type"] == "tuple_type" and isinstance(item["input"], str):
        message += """, as in '["ls", "pls"]' or '[0.1, 0.3]'"""
    message += find_nearest_value(item)
    return f"{key} = {item['input']!r}: {message[0].lower()}{message[1:]}"
