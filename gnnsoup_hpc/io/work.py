"""Who made each file of a run, when, and at which peak of memory, as the files themselves say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path

from gnnsoup_hpc.io import alignment, files, graph, ingredient, soup
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.run_dir import RunDir

ALL_RANKS = -1


@dataclass(frozen=True)
class WorkRecord:
    """The making of one file. what: "0003", "pls", or the phase's name where the phase makes one file.

    rank: of `ranks`, or ALL_RANKS, which is measured on rank 0. ended: seconds since 1970. spent: seconds and bytes.
    """

    phase: str
    what: str
    host: str
    rank: int
    ranks: int
    ended: float
    spent: Measurement
    versions: Mapping[str, str]  # of Python and packages

    @property
    def began(self) -> float:
        """Seconds since 1970, as if it had been done in one go."""
        return self.ended - self.spent["seconds"]


def read_work(run: RunDir, ingredients: Sequence[int], methods: Sequence[str]) -> list[WorkRecord]:
    """The work of a run whose files were read, and so checked, before; in the order of its ends.

    What a file does not tell, as one that was made elsewhere, is left out. Raises: FileError for a damaged file.
    """
    named = [
        ("prepare", "prepare", run.graph, graph.KIND, graph.VERSION),
        ("train", "trunk", run.trunk, ingredient.TRUNK, ingredient.TRUNK_VERSION),
        *(("train", f"{i:04d}", run.ingredient(i), ingredient.KIND, ingredient.VERSION) for i in ingredients),
        ("align", "align", run.alignment, alignment.KIND, alignment.VERSION),
        *(
            ("sweep", f"{name} {path.stem}", path, soup.KIND, soup.VERSION)
            for name in methods
            for path in sorted(run.cells(name).glob("*.h5"))
        ),
        *(("soup", name, run.soup(name), soup.KIND, soup.VERSION) for name in methods),
    ]
    found = (each for row in named if row[2].exists() for each in _read(*row))
    return sorted(found, key=lambda work: work.ended)


def _read(phase: str, what: str, path: Path, kind: str, version: int) -> Iterator[WorkRecord]:
    with files.read_file(path, kind, version, verify=False) as file:
        spent, created = files.get_cost(file), files.get_text(file, "created", "")
        if not created or not isfinite(spent["seconds"]) or "provenance" not in file:
            return
        made = file["provenance"]
        ranks = files.get_integer(made, "ranks", 1)
        alone = phase in ("prepare", "train") or ranks == 1
        rank = files.get_integer(made, "rank", 0) if alone else ALL_RANKS
        ended = datetime.fromisoformat(created).timestamp()
        versions = json.loads(made["versions"].asstr()[()]) if "versions" in made else {}
        yield WorkRecord(phase, what, files.get_text(made, "host", ""), rank, ranks, ended, spent, versions)
