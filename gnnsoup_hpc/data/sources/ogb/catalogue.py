"""What ogb knows of its sets. The package is found but not imported: importing it asks the network for its version."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import IntArray


@dataclass(frozen=True)
class OgbDataset:
    """A line of ogb's table."""

    name: str
    classes: int
    tasks: int
    task: str
    version: int
    url: str
    download_name: str
    split: str
    add_inverse_edge: bool
    is_hetero: bool
    binary: bool

    @property
    def folder(self) -> str:
        """Name of the set's folder under the root."""
        return self.name.replace("-", "_")


def find_dataset() -> dict[str, OgbDataset]:
    """Every node-property set of the installed ogb. Raises: GraphError where ogb is not installed."""
    spec = find_spec("ogb")
    if spec is None or spec.origin is None:
        raise GraphError("ogb: sources need the package ogb: pip install ogb")
    with (Path(spec.origin).parent / "nodeproppred" / "master.csv").open(encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    columns = {name: {row[0]: row[place] for row in rows} for place, name in enumerate(header) if place}
    return {name: _set(name, about) for name, about in columns.items()}


def accuracy(name: str, predicted_n: IntArray, labels_n: IntArray) -> float:
    """Accuracy by ogb's own Evaluator of the set `name`."""
    sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]  # or ogb asks PyPI for its newest version
    from ogb.nodeproppred import Evaluator

    arrays = {"y_true": np.asarray(labels_n)[:, None], "y_pred": np.asarray(predicted_n)[:, None]}
    return float(Evaluator(name).eval(arrays)["acc"])


def _set(name: str, about: dict[str, str]) -> OgbDataset:
    return OgbDataset(
        name=name,
        classes=int(about["num classes"]),
        tasks=int(about["num tasks"]),
        task=about["task type"],
        version=int(about["version"]),
        url=about["url"],
        download_name=about["download_name"],
        split=about["split"],
        add_inverse_edge=about["add_inverse_edge"] == "True",
        is_hetero=about["is hetero"] == "True",
        binary=about["binary"] == "True",
    )
