"""A report's text in colours: on a terminal, where rich is installed; else as it is."""

from __future__ import annotations

import sys
from importlib.util import find_spec

# Patterns of what is shown otherwise: all that they match, or groups that are named after their style.
BOLD = (r"(?m)^Take [^\n]*(\n[^\n]+)*?(?=\n(Try: |\n))", r"(?m)^Try: ")
NAMED = (r"± \S+ +(?P<green>better)\b", r"± \S+ +(?P<red>worse)\b")


def print_report(text: str) -> None:
    """Print a report. What it quotes is never read as markup."""
    if not sys.stdout.isatty() or find_spec("rich") is None:
        print(text, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    shown = Text(text)
    for pattern in BOLD:
        shown.highlight_regex(pattern, "bold")
    for pattern in NAMED:
        shown.highlight_regex(pattern)
    Console(highlight=False, soft_wrap=True).print(shown)
    sys.stdout.flush()
