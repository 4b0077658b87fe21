"""Paths as people give them: `~` and, in fields of a job, environment variables are replaced."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gnnsoup_hpc.errors import FileError, JobError

_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})")


def expand(text: str, field: str) -> Path:
    """The place that `text`, the value of `field`, names: `~`, `~user`, $NAME and ${NAME} replaced; $$ is a $.

    Raises: JobError for a variable that is not set or empty, a home that is not known, and a NUL in the text.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name and not os.environ.get(name):
            raise JobError(
                f"{field} = {text!r}: the environment variable {name} is not set; set it, or write the path out"
                " ($$ stands for a $)"
            )
        return os.environ[name] if name else "$"

    if "\0" in text:
        raise JobError(f"{field} = {text!r}: a path cannot hold a NUL")
    home, rest = "", text
    if text.startswith("~"):
        user, slash, rest = text.partition("/")
        home, rest = os.path.expanduser(user), slash + rest
        if home == user:
            raise JobError(f"{field} = {text!r}: the home folder {user} is not known here; write the path out")
    return Path(home + _VARIABLE.sub(value_of, rest))


def quote(path: Path) -> str:
    """The text of a field that names this very path, whatever characters are in it."""
    text = str(path).replace("$", "$$")
    return f"./{text}" if text.startswith("~") else text


def expand_home(text: str) -> Path:
    """The path of a command's argument, with ~ replaced by a home. Raises: FileError where none is known."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise FileError(f"{text}: no home folder is known for {Path(text).parts[0]}; write the whole path") from None


def find_bundled(file: str) -> Path:
    """A file that comes with the package, as jobs/pubmed.toml: its folder is beside it in a checkout, else inside it.

    Raises: FileError where it is missing.
    """
    package = Path(__file__).resolve().parent.parent
    found = next((path for path in (package / file, package.parent / file) if path.is_file()), None)
    if found is None:
        raise FileError(f"{file} of {package.name} is missing from {package}: install the package again")
    return found
