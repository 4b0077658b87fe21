"""What files of models say of how they were judged, in their group metrics. Format: docs/format.md."""

from __future__ import annotations

import h5py
import numpy as np

from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.records import Judged

_OTHERS = ("test_roc_auc", "test_average_precision")


def put(metrics: h5py.Group, judged: Judged) -> None:
    """Write it beside the metrics."""
    metrics.attrs["metric"] = judged.metric
    for name in _OTHERS:
        if name in judged.others:
            files.put(metrics, name, judged.others[name], "1", f"exact {name.removeprefix('test_')}, on test nodes")
    for role, draws in (("validation", judged.validation_draws), ("test", judged.test_draws)):
        if draws is not None:
            files.put(metrics, f"{role}_draws", draws, "1", f"metric of bootstrap samples of {role} nodes")
    if judged.target_mean:
        files.put(metrics, "target_mean", judged.target_mean, "1", "added to outputs times target_spread")
        files.put(metrics, "target_spread", judged.target_spread, "1", "what outputs are multiplied by")


def get(metrics: h5py.Group) -> Judged:
    """What is there; files of before were judged by accuracy."""
    return Judged(
        metric=get_metric(metrics),
        validation_draws=metrics["validation_draws"][:] if "validation_draws" in metrics else None,
        test_draws=metrics["test_draws"][:] if "test_draws" in metrics else None,
        others={name: files.get_number(metrics, name) for name in _OTHERS if name in metrics},
        target_mean=_get_numbers(metrics, "target_mean"),
        target_spread=_get_numbers(metrics, "target_spread"),
    )


def get_metric(metrics: h5py.Group) -> str:
    """Whose values the accuracies are."""
    return files.get_text(metrics, "metric", "accuracy")


def _get_numbers(metrics: h5py.Group, name: str) -> tuple[float, ...]:
    return tuple(np.asarray(metrics[name][:], dtype=np.float64).tolist()) if name in metrics else ()
