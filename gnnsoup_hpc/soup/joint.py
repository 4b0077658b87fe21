"""Joint runs of a sweep of training: copies of its runs' ingredients, in the order of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import JointRun
from gnnsoup_hpc.data.prepare import lend_graph
from gnnsoup_hpc.io import files, imports
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.imports import ImportedFile
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.selection import select_across
from gnnsoup_hpc.train.imports import import_files


def gather_joint_run(job: Job, joint: JointRun, here: RankInfo, device: torch.device, log: Log) -> None:
    """Import the fit ingredients of a grid's runs to their joint run. job: that of the sweep. By one rank.

    What is there of the same ingredients is kept; else all of it is imported again, for it costs little.
    Raises: RunError where one is not fit and the job says to refuse, or none is.
    """
    run = RunDir.of(joint.job)
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        lend_graph(job, [joint.job], log)
        model = make_model_for(graph, joint.job.model, graph.resolve_task(job.task).outputs)
        chosen = select_across(joint, model, graph, log)
    rows = files.read_kept(run.imported, imports.read_sound, log, "soup") or ()
    if not is_of(rows, chosen):
        for path in (*run.ingredients.glob("*.h5"), run.imported):
            path.unlink(missing_ok=True)
    import_files(joint.job, [path for path, _ in chosen], "", here, device, log)


def is_of(rows: Sequence[ImportedFile], chosen: Sequence[tuple[Path, str]]) -> bool:
    """Whether what is imported is of these files, with such hashes of weights; of equal weights the first is."""
    first = {sha256: imports.name_source(path) for path, sha256 in reversed(chosen)}
    wanted = [(first[sha256], sha256) for sha256 in dict.fromkeys(sha256 for _, sha256 in chosen)]
    return [(row.name, row.state_sha256) for row in rows] == wanted
