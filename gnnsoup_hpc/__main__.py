"""The `gnnsoup` command. It hears Ctrl-C before it loads anything, for loading what a command needs takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gnnsoup_hpc.runtime.signals import ignore_while_loading
from gnnsoup_hpc.runtime.terminal import terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    # A waiting OpenMP thread spins on its core by default, which the compiled kernels' threads then go without: between
    # kernels and dense products that made a step over twice as slow (docs/kernels.md). OpenMP reads this when it is
    # loaded, with torch; whoever has set one of the two variables knows better.
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ignore_while_loading(), terminal() as here:
        from gnnsoup_hpc.cli import commands

        return commands.main(sys.argv[1:] if arguments is None else arguments, here)


if __name__ == "__main__":
    sys.exit(main())
