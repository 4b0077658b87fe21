"""Souping by the commands on a generated graph of ogbn-arxiv's size: how long an evaluation takes, and where."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import h5py

from tests.gpu.tools import attempt, gnnsoup, record

SETS = ["graph.source=synthetic:arxiv", "model.layers=3", "model.hidden=256", "train.ingredients=8", "train.epochs=10"]
SETS += ["soup.ls.epochs=40", "soup.pls.epochs=40", "soup.gis.granularity=20", "partition.parts=32", "soup.pls.union=4"]
SETS += ["machine.device=cuda", "soup.diagnose=false"]


def check(kind: str) -> None:
    """Train eight ingredients and soup them."""
    words = [w for each in [*SETS, f"model.kind={kind}", f"name={kind}"] for w in ("--set", each)]
    gnnsoup("run", *words)
    with h5py.File(Path("runs") / kind / "ingredients" / "0000.h5") as file:
        record(
            f"{kind}: seconds an epoch of full batches, validation included", median(file["history/seconds"][2:]), "s"
        )
    for method in ("gis", "ls", "pls"):
        with h5py.File(Path("runs") / kind / "soups" / f"{method}.h5") as file:
            cost = file["cost"]
            seconds, device = float(cost["seconds"][()]), float(cost["peak_device_bytes"][()]) / 2**20
            if len(file["history/seconds"]) > 5:
                record(f"{kind}: {method}, an evaluation", 1000 * float(median(file["history/seconds"][5:])), "ms")
            record(f"{kind}: {method}, all", seconds, "s", None, f"peak {device:.0f} MiB on the GPU")


def main() -> None:
    """Two kinds."""
    for kind in ("sage", "gat"):
        attempt(kind, lambda kind=kind: check(kind))


if __name__ == "__main__":
    main()
