"""The tiny run with labels of every kind, made of its planted classes; some are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gnnsoup_hpc.config import Job
from tests import runs, tiny

KINDS: dict[str, tuple[str, ...]] = {  # what a job says beside the graph
    "multiclass": ("task.metric=f1_macro", "task.class_weights=balanced", "task.label_smoothing=0.1"),
    "pair": (),  # two classes, by accuracy
    "binary": ("task.kind=binary",),
    "multilabel": (),
    "regression": (),
    "error": ("task.metric=mae", "task.kind=regression"),
}


def make_labels(kind: str, y: np.ndarray, seed: int = 0) -> np.ndarray:
    """Labels of a kind from planted classes."""
    rng = np.random.default_rng(seed)
    if kind == "multiclass":
        return y
    if kind in ("binary", "pair"):
        return (y == 0).astype(np.int64)
    flips = rng.random((len(y), 4)) < 0.1
    labels = np.stack([y == 0, y == 1, y == 2, y != 0], 1) ^ flips
    numbers = 1000.0 + np.array([5.0, 50.0, 500.0, 0.5]) * (labels + 0.2 * rng.normal(size=labels.shape))
    found = labels.astype(np.float64) if kind == "multilabel" else numbers
    found[rng.random(found.shape) < 0.1] = np.nan
    found[np.isnan(found).all(1), 0] = 1.0
    return found


def write(folder: Path, kind: str, *overrides: str, alike: bool = False, **shape: object) -> Job:
    """The tiny job on such a graph; alike: every node has the same labels."""
    tiny.write_job(folder, **shape)
    arrays = tiny.planted()
    labels = make_labels(kind, arrays["y"])
    np.savez(folder / "tiny.npz", **(arrays | {"y": np.ones_like(labels) if alike else labels}))
    return runs.load_job(folder, *KINDS[kind], *overrides)


def prepare_run(folder: Path, kind: str, *overrides: str, alike: bool = False, **shape: object) -> Job:
    """With its graph.h5."""
    job = write(folder, kind, *overrides, alike=alike, **shape)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    return job


def train_run(folder: Path, kind: str, *overrides: str, **shape: object) -> Job:
    """With its graph.h5 and all ingredients."""
    job = prepare_run(folder, kind, *overrides, **shape)
    runs.train(job)
    return job
