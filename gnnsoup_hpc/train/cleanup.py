"""What killed processes leave of work that is done since: nobody heeds it, and nobody else would remove it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from gnnsoup_hpc.runtime import leases, processes
from gnnsoup_hpc.runtime.run_dir import RunDir


def remove_leftovers(run: RunDir, done: Iterable[str]) -> None:
    """Remove leases, notes and checkpoints of works that are done, and temporaries; what cannot be removed stays."""
    for work in done:
        lease = run.lease(work)
        leases.clear(lease)
        if lease.exists():  # somebody looks at it just now
            continue
        for left in (run.checkpoint(work), run.progress(work), run.failure(work)):
            with suppress(OSError):
                left.unlink(missing_ok=True)
    for folder in (run.root, run.ingredients, run.checkpoint("").parent, run.lease("").parent, run.failures):
        processes.remove_leftovers(folder)
