"""Fields of a job that name a place: `~` and environment variables in them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gnnsoup_hpc.errors import JobError

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


def literal(path: Path) -> str:
    """The text of a field that names this very path, whatever characters are in it."""
    text = str(path).replace("$", "$$")
    return f"./{text}" if text.startswith("~") else text
