"""The `gnnsoup` command. It hears Ctrl-C before it loads anything, for loading what a command needs takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gnnsoup_hpc.signals import loading
from gnnsoup_hpc.terminal import terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    with loading(), terminal() as here:
        from gnnsoup_hpc import commands

        return commands.main(sys.argv[1:] if arguments is None else arguments, here)


if __name__ == "__main__":
    sys.exit(main())
