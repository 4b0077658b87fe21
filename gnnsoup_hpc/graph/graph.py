"""A graph, its preparation and its partition, as plain records.

Shape suffixes: V nodes, E entries of the adjacency (in-neighbours), F features, K parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import ByteArray, Doubles, FloatArray, IndexArray, IntArray, TargetKind, Targets
from gnnsoup_hpc.utils.out_of_core import Rows


@dataclass(frozen=True)
class SourceFile:
    """A file that a graph was read from, as it was then. `changed_ns`: its inode's change time, 0 where unknown."""

    path: str
    size: int
    modified_ns: int
    sha256: str
    changed_ns: int = 0


@dataclass(frozen=True)
class SourceFacts:
    """What a source holds that decides which fields of [graph] matter: a function of its content and its reader alone.

    splits: the number of columns (alternatives) of each split that it has, by the split's name; None where the job
    asked for a random split and the source's own could not be read.
    duplicates: edges that the source has more than once, surplus copies counted.
    edge_values: names of its arrays with values of edges, by the field of [graph] that says what to do with them.
    symmetric: it has the reverse of every edge; self_loops: nodes that have one, of `nodes`.
    targets: what its labels are taken for where the job does not say.
    filled: the share of the values of its features that are not zero; None where an earlier version did not count them.
    """

    splits: Mapping[str, int] | None = field(default_factory=dict)
    duplicates: int = 0
    edge_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    symmetric: bool = False
    self_loops: int = 0
    nodes: int = 0
    targets: TargetKind = "classes"
    filled: float | None = None


@dataclass(frozen=True)
class Graph:
    """A graph whose nodes have labels. Row i of the CSR arrays holds node i's in-neighbours, sorted.

    Shapes: x (V, F), indptr (V + 1,), indices (E,), role (V,). y: of classes (V,) in [-1, classes) with -1 = no label;
    of other targets (V, T), NaN where one is missing, T being `classes`: float32 for yes or no, float64 for numbers.
    weight: of each entry, (E,), finite and not negative; None where edges have none, or none that is used. edge_attr:
    features of each entry, (E, D) float32, likewise.
    """

    x: Rows
    y: Targets
    indptr: IntArray
    indices: IndexArray
    role: ByteArray
    classes: int
    source: str
    source_sha256: str
    files: tuple[SourceFile, ...] = ()
    source_edges: int = 0  # as the source has them, before reverses were added and duplicates merged
    symmetric: bool = False  # known to have the reverse of every entry
    facts: SourceFacts = field(default_factory=SourceFacts)
    split: str = ""  # which split was taken, in words: "stored masks, column 3 of 10"
    notes: tuple[str, ...] = ()  # sentences that prepare says and the report repeats
    targets: TargetKind = "classes"
    weight: FloatArray | None = None
    edge_attr: Rows | None = None

    @property
    def nodes(self) -> int:
        """|V|."""
        return len(self.y)

    @property
    def edge_values(self) -> dict[str, Any]:
        """What entries have, (E, …), by the names that files have for it, in their order."""
        both = {"edge_attr": self.edge_attr, "edge_weight": self.weight}
        return {name: values for name, values in both.items() if values is not None}


@dataclass(frozen=True)
class Preparation:
    """What was done to the features: (x - mean) / scale, x / scale, or x / row sum. Shapes: mean, scale (F,) or empty.

    float64, in which it is computed; float32 in files of the first version.
    """

    kind: str
    mean: Doubles | FloatArray
    scale: Doubles | FloatArray

    def apply(self, rows: npt.ArrayLike) -> FloatArray:
        """Raw rows (n, F) as a model sees them, (n, F) float32; computed in float64, inf where float32 holds no more.

        Raises: GraphError for a kind of preparation that this version does not know.
        """
        x = np.asarray(rows, dtype=np.float64)
        if self.kind == "standardise":
            x = (x - self.mean) / self.scale
        elif self.kind == "scale":
            x = x / self.scale
        elif self.kind == "row-normalise":
            for reduce in (np.max, np.sum):  # by the largest first, so that no sum is beyond what float64 holds
                divisor = reduce(np.abs(x), 1, keepdims=True)
                x = x / np.where(divisor == 0.0, 1.0, divisor)
        elif self.kind != "none":
            raise GraphError(
                f"features were prepared by {self.kind!r}, which this version does not know: use a newer one"
            )
        with np.errstate(over="ignore"):
            return x.astype(np.float32)


@dataclass(frozen=True)
class Partition:
    """Parts of a graph. Shapes: part (V,) in [0, K), order (V,) old node ids with parts contiguous, ptr (K + 1,)."""

    part: IntArray
    order: IntArray
    ptr: IntArray
    edge_cut: int
    edges: int
    balance: float
    validation_balance: float
    options: Mapping[str, int]

    @property
    def parts(self) -> int:
        """K."""
        return len(self.ptr) - 1
