"""A diagnosis as a table, for diagnosis.h5 and report.h5."""

from __future__ import annotations

import numpy as np

from gnnsoup_hpc.analysis.diagnosis.basin import Barrier, compute_barriers, compute_mean_barrier
from gnnsoup_hpc.io.diagnosis import ALL
from gnnsoup_hpc.io.records import Diagnosis
from gnnsoup_hpc.io.report import Columns


def make_columns(found: Diagnosis) -> Columns:
    """One row a way to line up and an ingredient other than the best; then one for the mean of all."""
    rows: list[tuple[str, str, str, Barrier]] = []
    for way in found.lineups:
        rows += [(way.lineup, way.setting, barrier.name, barrier) for barrier in compute_barriers(found, way)]
        rows.append((way.lineup, way.setting, ALL, compute_mean_barrier(found, way)))
    told = [barrier for *_, barrier in rows]
    return {
        "lineup": ([row[0] for row in rows], "1", "how ingredients were lined up with the best one"),
        "setting": ([row[1] for row in rows], "1", "the job's field that does so; empty for as trained"),
        "ingredient": ([row[2] for row in rows], "1", f"the other end; {ALL}: the mean of all ingredients"),
        "accuracy": (np.array([b.mean.accuracy for b in told]), "1", "of the midpoint, on validation nodes"),
        "loss": (np.array([b.mean.loss for b in told]), "nat", "mean cross-entropy of the midpoint"),
        "barrier_loss": (np.array([b.loss for b in told]), "nat", "loss above the mean of the ends"),
        "barrier_accuracy": (np.array([b.fall for b in told]), "1", "accuracy below the mean of the ends"),
        "error": (np.array([b.error for b in told]), "1", "standard error of barrier_accuracy"),
        "in_basin": (np.array([b.in_basin for b in told], dtype=np.uint8), "1", "barrier within twice the error"),
    }
