"""METIS in a process of its own, for graphs that it works on for minutes.

METIS holds Python's lock, so that no other thread of its process runs: no lease would be renewed and no interrupt be
heard. A process of its own also gives its memory back. Arrays travel as files, nothing is forked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from gnnsoup_hpc.config import PartitionJob
from gnnsoup_hpc.data.partition import Cut, cut_with_metis
from gnnsoup_hpc.errors import PartError
from gnnsoup_hpc.runtime.profiling import Meter, host_bytes
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.signals import block_for_children
from gnnsoup_hpc.types import IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import save, save_text

SECONDS_BETWEEN_LINES = 30.0


def cut_in_process(folder: Path, meter: Meter, log: Log) -> Cut:
    """A way to cut that runs this module in a child; its peak memory is booked on `meter`.

    Raises: PartError where the child fails, for want of memory as a rule.
    """

    def cut(indptr: IntArray, indices: IndexArray, weights: IntArray, job: PartitionJob) -> IntArray:
        for name, array in (("indptr", indptr), ("indices", indices), ("weights", weights)):
            save(folder / f"{name}.npy", array)
        save_text(folder / "job.json", job.model_dump_json())
        log.say(f"prepare: METIS cuts {len(indptr) - 1} nodes, {len(indices) // 2} edges into {job.parts} parts")
        _run(_command(folder), log)
        meter.book_child(json.loads((folder / "peak.json").read_text(encoding="utf-8")))
        part: IntArray = np.load(folder / "part.npy")
        return part

    return cut


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "gnnsoup_hpc.data.metis_process", str(folder)]


def _run(command: list[str], log: Log) -> None:
    with ExitStack() as ending:
        with block_for_children():
            child = ending.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
            ending.callback(child.kill)  # whatever ends us must not leave it behind; nothing happens where it has ended
        code = _waited_for(child, log)
    if code:
        raise PartError(
            f"METIS ended with exit code {code}; it needs some 90 bytes of memory for each directed entry of the graph:"
            " use a machine with more memory"
        )


def _waited_for(child: subprocess.Popen[bytes], log: Log) -> int:
    start = time.monotonic()
    while True:
        try:
            return child.wait(SECONDS_BETWEEN_LINES)
        except subprocess.TimeoutExpired:
            log.say(f"prepare: METIS has been at it for {time.monotonic() - start:.0f} s")


def main(folder: Path) -> None:
    """The child: cut what lies in `folder`, leave part.npy and peak.json there."""
    job = PartitionJob.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))
    indptr, indices, weights = (np.load(folder / f"{name}.npy") for name in ("indptr", "indices", "weights"))
    save(folder / "part.npy", cut_with_metis(indptr, indices, weights, job))
    save_text(folder / "peak.json", json.dumps(host_bytes("VmHWM")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
