"""A graph of named arrays: what `npz:`, `pt:` and `pyg:` have in common. docs/format.md has the names.

Nothing is passed over in silence: what no name stands for is refused where it may matter, and else said in a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.config.task import resolve_targets
from gnnsoup_hpc.data.sources import split
from gnnsoup_hpc.data.sources.raw import NO_LABELS, RawGraph, SourceSplit, hash_files, list_few, show_values, simplify
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph.edge_values import find_unfit, find_unfit_features
from gnnsoup_hpc.graph.graph import SourceFile
from gnnsoup_hpc.types import Doubles, IndexArray, IntArray, TargetKind, Targets
from gnnsoup_hpc.utils.out_of_core import Rows, SparseRows

_FEW = 100  # values that classes may have where others are strays
_WEIGHTS = re.compile(r"(edge)?weights?|edgew")


@dataclass
class _Named:
    """A source's values by name, and which of them nothing has read yet."""

    where: str
    values: Mapping[str, Any]
    unread: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.unread = dict(self.values)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def take(self, name: str) -> Any:
        if name not in self.values:
            raise GraphError(
                f"{self.where}: {name!r} is missing; it has: {', '.join(sorted(self.values)) or 'nothing'}"
            )
        self.unread.pop(name, None)
        return self.values[name]

    def array(self, name: str, expected: str, kinds: str, dimensions: int) -> npt.NDArray[Any]:
        """An array of so many dimensions whose type is one of `kinds`."""
        value = self.take(name)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != dimensions:
            raise self.unfit(name, expected)
        return value

    def integers(self, name: str, dimensions: int = 1) -> npt.NDArray[Any]:
        """Integers, none of which int64 cannot hold."""
        expected = ("a single integer", "a row of integers", "a matrix of integers")[dimensions]
        return _to_int64(self.array(name, expected, "iu", dimensions), name, self.where)

    def number(self, name: str) -> int | None:
        """A single integer, if it is there; PyG's transforms may have made an array of it."""
        if name not in self:
            return None
        value = self.take(name)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.size != 1:
            raise self.unfit(name, "a single integer")
        return int(value.reshape(()))

    def unfit(self, name: str, expected: str) -> GraphError:
        value = self.values[name]
        holds = "holds" if isinstance(value, np.ndarray) or sp.issparse(value) else "is"
        return GraphError(f"{self.where}: {name} {holds} {show_values(value)}; expected {expected}")


def make_graph(
    values: Mapping[str, Any],
    where: str,
    files: tuple[SourceFile, ...],
    kind: str,
    job: GraphJob,
    task: str = "auto",
) -> RawGraph:
    """The graph of named arrays and SciPy matrices, read from `files`; its split, if any, gets the name `kind`.

    task: task.kind of the job, by which y is read; or NO_LABELS, and there need be none.
    Shapes: x (V, F) dense or sparse, y (V,) or (V, T), edge_index (2, E), masks (V,) or (V, n) with n splits.
    Raises: GraphError naming what is missing, does not fit, or would be passed over.
    """
    named = _Named(where, {name: value for name, value in values.items() if value is not None})
    y, targets, recognised = _read_labels(named, task)
    x = _read_features(named, len(y))
    if x.shape[0] != len(y):
        raise GraphError(f"{where}: x has {x.shape[0]} rows, and y has {len(y)} labels; both are one a node")
    source, destination, weights = _read_edges(named, len(y))
    classes = named.number("num_classes")
    for name, have in (("num_nodes", len(y)), ("num_features", x.shape[-1])):
        if name in named.unread and named.number(name) != have:
            raise GraphError(
                f"{where}: {name} is {named.number(name)}, but the arrays have {have}; correct one of them"
            )
    edge_values, given, notes = _find_edge_values(named, weights)
    notes += _note_strays(y) if targets == recognised == "regression" else []
    names = split.list_split_names(named.unread)
    splits, used = _read_splits(named, len(y), kind, job)
    unread = sorted(named.unread.keys() - used - set(names if job.split == "random" else ()))
    notes += [f"not used: {', '.join(unread)}"] if unread else []
    return RawGraph(
        where=where,
        sha256=hash_files(files),
        x=x,
        y=y,
        source=source,
        destination=destination,
        classes=classes,
        splits=splits,
        files=files,
        split_names=names,
        edge_values=edge_values,
        notes=tuple(notes),
        targets=targets,
        found=recognised,
        weight=_read_weights(named, given["edge_weight"], len(source)) if job.edge_weight == "use" else None,
        edge_attr=_read_edge_attr(named, given["edge_attr"], len(source)) if job.edge_attr == "use" else None,
    )


def _read_splits(named: _Named, nodes: int, kind: str, job: GraphJob) -> tuple[dict[str, SourceSplit] | None, set[str]]:
    """The source's own split by its name, None where it cannot be read and need not; the arrays it was read from."""
    try:
        found, used = split.read(named.unread, nodes, named.where)
    except GraphError:
        if job.split != "random":
            raise
        return None, set()
    return ({kind: found} if found else {}), used


def _read_labels(named: _Named, kind: str) -> tuple[Targets, TargetKind, TargetKind]:
    """Labels as `Graph` has them, what they are by task.kind, and what `auto` takes them for."""
    if kind == NO_LABELS:
        named.unread.pop("y", None)
        return np.full(_count_nodes(named), -1), "classes", "classes"
    y = named.take("y")
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "iufb":
        text = isinstance(y, list) or (isinstance(y, np.ndarray) and y.dtype.kind in "US")
        also = ", as of names np.unique(y, return_inverse=True)[1] gives" * text
        raise named.unfit("y", f"classes as integers from 0 on, with -1 = no label{also}")
    if y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise named.unfit("y", "one class a node, (V,), or T labels or numbers a node, (V, T)")
    if y.ndim == 2 and y.shape[1] == 1 and kind != "multilabel":
        y = y[:, 0]
    found = _recognise(y)
    targets = resolve_targets(kind, found)
    if targets != "classes":
        return _read_targets(named, y.reshape(len(y), -1), targets), targets, found
    if y.ndim == 2:
        one_hot = bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())
        also = "; each row has exactly one 1: of one class a node y.argmax(1) says the same" if one_hot else ""
        words = "one class a node, (V,); of several columns task.kind = 'multilabel' makes labels, 'regression' numbers"
        raise named.unfit("y", f"{words}{also}")
    return _read_classes(named, y), targets, found


def _count_nodes(named: _Named) -> int:
    """By the rows of features."""
    if "x" not in named and "x_indptr" in named:
        return len(named.integers("x_indptr")) - 1
    shape: tuple[int, ...] = getattr(named.take("x"), "shape", ())
    return shape[0] if shape else 0


def _recognise(y: npt.NDArray[Any]) -> TargetKind:
    """What labels look like: whole numbers (V,) are classes; 0 and 1 (V, T), but one-hot rows, yes or no."""
    missing = np.isnan(y) | (y == -1) if y.dtype.kind == "f" else y < 0
    if y.ndim == 1:
        return "classes" if y.dtype.kind != "f" or bool((missing | (y == np.floor(y))).all()) else "regression"
    if bool((missing | (y == 0) | (y == 1)).all()) and (y.dtype.kind == "f" or bool((y >= -1).all())):
        one_hot = y.shape[1] > 1 and not missing.any() and bool((y.sum(1) == 1).all())
        return "classes" if one_hot else "multilabel"
    return "regression" if y.dtype.kind == "f" else "classes"


def _note_strays(y: Doubles) -> list[str]:
    """A sentence where a few values alone keep targets (V, T) from being classes, or labels that are 0 and 1."""
    known = ~np.isnan(y)
    label = (y == np.floor(y)) if y.shape[1] == 1 else (y == 0) | (y == 1) | (y == -1)
    stray = np.argwhere(known & ~label)
    values = np.unique(y[label])
    if not len(values) or len(values) > _FEW or len(stray) > max(1, known.sum() // 100):
        return []
    node, target = stray[0]
    where = f"node {node}" + f", target {target}" * (y.shape[1] > 1)
    more = f" and {len(stray) - 1} more like it" * (len(stray) > 1)
    kind, listed = ("multiclass" if y.shape[1] == 1 else "multilabel"), list_few([f"{value:g}" for value in values])
    return [
        f"y has the value {y[node, target]:g} at {where}{more}, and else {listed} alone: a regression because of that;"
        f" if these are labels, correct it and say task.kind = '{kind}'"
    ]


def _read_targets(named: _Named, y: npt.NDArray[Any], targets: TargetKind) -> Targets:
    """(V, T); a label of -1 is a missing one, as NaN is. Raises: GraphError where numbers are beyond float64."""
    if targets == "regression":
        return y.astype(np.float64)
    return np.where(y == -1, np.nan, y).astype(np.float32)


def _read_classes(named: _Named, y: npt.NDArray[Any]) -> IntArray:
    """One class a node, (V,), -1 = no label; of floating numbers NaN is none, the others must be whole."""
    if y.dtype.kind == "f":
        y = y.astype(np.float64)
        given = np.where(np.isnan(y), np.asarray(-1, dtype=y.dtype), y)
        odd = np.flatnonzero(given != np.floor(given))
        if len(odd) or (np.abs(given) >= 2.0**62).any():
            node = int(odd[0] if len(odd) else np.argmax(np.abs(given)))
            raise GraphError(
                f"{named.where}: y holds {y[node]} at node {node}; expected classes as whole numbers from 0 on, with"
                " -1 or NaN = no label; numbers to be predicted are task.kind = 'regression'"
            )
        y = given
    return _to_int64(y, "y", named.where).astype(np.int64, copy=False)


def _read_features(named: _Named, nodes: int) -> Rows:
    """Features in the source's own type of number."""
    if "x" in named:
        x = named.take("x")
        if getattr(x, "ndim", 0) != 2 or x.dtype.kind not in "fiub":
            raise named.unfit("x", "numbers of shape (V, F)")
        if isinstance(x, np.ndarray):
            return x
        entries = x.tocoo()
        return SparseRows(sp.csr_matrix((_to_plain(entries.data), (entries.row, entries.col)), shape=x.shape))
    if "x_indptr" not in named:
        named.take("x")
    indptr, indices = named.integers("x_indptr"), named.integers("x_indices")
    data = named.array("x_data", "a row of numbers", "fiub", 1)
    width = int(indices.max()) + 1 if len(indices) else 0
    width = named.number("num_features") if "num_features" in named else width  # type: ignore[assignment]
    try:
        matrix = sp.csr_matrix((_to_plain(data), indices, indptr), shape=(nodes, width))
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise GraphError(
            f"{named.where}: x_indptr, x_indices, x_data are no CSR matrix of {nodes} rows: {error}"
        ) from None
    return SparseRows(matrix)


def _to_plain(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Entries of a sparse matrix in a type that SciPy knows, and in which duplicates can be summed."""
    if data.dtype.kind == "f" and data.dtype.itemsize >= 4:
        return data.astype(data.dtype.newbyteorder("="), copy=False)
    return data.astype(np.float32 if data.dtype.itemsize <= 2 else np.float64)


def _read_edges(named: _Named, nodes: int) -> tuple[IndexArray, IndexArray, dict[str, Any]]:
    """(source, destination) of every edge, and weights that belong to the layout: edge_index, adj_t or CSR rows."""
    weights: dict[str, Any] = {
        name: named.take(name) for name in ("data", "values") if {name, "indptr"} <= named.values.keys()
    }
    adjacency = named.take("adj_t") if "adj_t" in named else None
    if adjacency is not None and (not sp.issparse(adjacency) or adjacency.shape != (nodes, nodes)):
        raise named.unfit("adj_t", f"a sparse matrix of shape ({nodes}, {nodes}), row = destination")
    entries = None if adjacency is None else adjacency.tocoo()
    weights |= {} if entries is None else {"adj_t": entries.data}
    if "edge_index" in named:
        edges = named.integers("edge_index", 2)
        if len(edges) != 2:
            hint = ": transpose it" if edges.shape[1] == 2 else ""
            raise named.unfit("edge_index", f"integers of shape (2, E), sources and destinations{hint}")
        if entries is not None and not np.array_equal(
            np.unique(edges[0] + nodes * edges[1]), np.unique(entries.col + nodes * entries.row.astype(np.int64))
        ):
            raise GraphError(f"{named.where}: edge_index and adj_t hold different edges; leave one of them out")
        return _narrow(edges[0], nodes), _narrow(edges[1], nodes), weights
    if entries is not None:
        return _narrow(entries.col, nodes), _narrow(entries.row, nodes), weights
    if "indptr" not in named:
        named.take("edge_index")
    _check_csr(named, nodes)
    indptr, indices = named.integers("indptr"), named.integers("indices")
    counts = np.diff(indptr)
    if len(indptr) != nodes + 1 or indptr[0] != 0 or (counts < 0).any() or indptr[-1] != len(indices):
        raise GraphError(f"{named.where}: indptr must rise from 0 to {len(indices)} in {nodes + 1} steps")
    return _narrow(indices, nodes), _narrow(np.repeat(np.arange(nodes), counts), nodes), weights


def _check_csr(named: _Named, nodes: int) -> None:
    """See that what scipy.sparse.save_npz adds to a matrix says what its rows and columns are read as."""
    if "format" in named:
        layout = np.asarray(named.take("format")).item()
        layout = layout.decode("ascii", "replace") if isinstance(layout, bytes) else str(layout)
        if layout != "csr":
            raise GraphError(
                f"{named.where}: format is {layout!r}; expected csr, row = destination: A.tocsr() makes it that"
            )
    if "shape" in named and named.integers("shape").tolist() != [nodes, nodes]:
        raise GraphError(f"{named.where}: shape is {named.values['shape'].tolist()}; expected [{nodes}, {nodes}]")


def _narrow(ids: npt.NDArray[Any], nodes: int) -> IndexArray:
    """Node ids as int32 where it holds them; ids out of range stay so, for the check of the graph to find them."""
    fits = nodes < 2**31 and (not ids.size or (ids.min() >= -(2**31) and ids.max() < 2**31))
    return ids.astype(np.int32, copy=False) if fits else ids.astype(np.int64, copy=False)


def _find_edge_values(
    named: _Named, weights: dict[str, Any]
) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, Any]], list[str]]:
    """Names of arrays with values of edges, by the field of [graph] that is about them; such arrays; notes.

    Values that are 1 for every edge are said in a note, and are among the arrays where there are no others.
    """
    values = {name: ("edge_weight", value) for name, value in weights.items()}
    for name, value in list(named.unread.items()):
        plain = simplify(name)
        alone = isinstance(value, str | bytes) or (isinstance(value, np.ndarray) and value.ndim == 0)
        if not alone and (_WEIGHTS.fullmatch(plain) or plain.startswith("edge")):
            values[name] = ("edge_weight" if _WEIGHTS.fullmatch(plain) else "edge_attr", named.take(name))
    ones = [name for name, (_, value) in values.items() if _is_ones(value)]
    found = {
        kind: tuple(name for name, (its, _) in values.items() if its == kind and name not in ones)
        for kind in ("edge_weight", "edge_attr")
    }
    notes = [f"{name} is 1 for every edge, which says nothing" for name in ones]
    chosen = {kind: names or tuple(n for n in ones if values[n][0] == kind)[:1] for kind, names in found.items()}
    given = {kind: {name: values[name][1] for name in names} for kind, names in chosen.items()}
    return {kind: names for kind, names in found.items() if names}, given, notes


def _read_weights(named: _Named, weights: dict[str, Any], edges: int) -> Doubles | None:
    """The weight of each edge, (E,), None where there are none. Raises: GraphError for what is no such thing."""
    if not weights:
        return None
    name, value = _take_one(named, weights, "weights")
    if name in ("adj_t", "data", "values") and "edge_index" in named:
        raise GraphError(f"{named.where}: {name} gives weights, in an order that edge_index has not: leave that out")
    shaped = isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.shape in ((edges,), (edges, 1))
    if not shaped:
        raise named.unfit(name, f"a number an edge, ({edges},)")
    found: Doubles = value.reshape(-1).astype(np.float64)
    if (edge := find_unfit(found)) is not None:
        raise GraphError(
            f"{named.where}: {name} is {found[edge]} at edge {edge}; expected finite numbers from 0 on: a degree"
            " below 0 has no root, by which GCN scales, and no mean has such weights"
        )
    return found


def _read_edge_attr(named: _Named, arrays: dict[str, Any], edges: int) -> npt.NDArray[Any] | None:
    """Features of each edge, (E, D), in the source's own type of number, None where there are none.

    Raises: GraphError for what is no such thing.
    """
    if not arrays:
        return None
    name, value = _take_one(named, arrays, "features")
    found: Any = value[:, None] if isinstance(value, np.ndarray) and value.ndim == 1 else value
    numbers = isinstance(found, np.ndarray) and found.dtype.kind in "fiub" and found.ndim == 2
    if not numbers or len(found) != edges or found.shape[1] == 0:
        raise named.unfit(name, f"numbers of shape ({edges}, D), D features an edge")
    if (edge := find_unfit_features(found)) is not None:
        raise GraphError(
            f"{named.where}: {name} is {found[edge].tolist()} at edge {edge}; expected finite numbers, as float32 has"
        )
    return np.asarray(found)


def _take_one(named: _Named, arrays: dict[str, Any], what: str) -> tuple[str, Any]:
    """Name and value of the only array. Raises: GraphError where there are several."""
    if len(arrays) > 1:
        raise GraphError(f"{named.where}: {', '.join(arrays)} each give edges {what}: leave all but one out")
    return next(iter(arrays.items()))


def _is_ones(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and bool((value == 1).all())


def _to_int64(array: npt.NDArray[Any], name: str, where: str) -> npt.NDArray[Any]:
    """Integers as int64 at most. Raises: GraphError for those that it cannot hold."""
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() >= 2**63:
        raise GraphError(f"{where}: {name} has the value {int(array.max())}, which is out of range")
    return array.astype(np.int64, copy=False) if array.dtype.kind in "bfu" or not array.dtype.isnative else array
