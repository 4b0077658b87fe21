"""The `gnnsoup` command. It hears Ctrl-C before it loads anything, for loading what a command needs takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gnnsoup_hpc.runtime.signals import ignore_while_loading
from gnnsoup_hpc.runtime.terminal import terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    with ignore_while_loading(), terminal() as here:
        from gnnsoup_hpc.cli import commands

        return commands.main(sys.argv[1:] if arguments is None else arguments, here)


if __name__ == "__main__":
    sys.exit(main())
