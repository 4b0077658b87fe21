"""What a source may use, the graph that it gives, and the way of that to a checked `Graph`.

The structure is in memory as a whole, for METIS needs it so; features are looked at a block of rows at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.graph.edge_values import MergedFeatures, find_edges, find_overflow, merge_weights
from gnnsoup_hpc.graph.graph import Graph, SourceFacts, SourceFile
from gnnsoup_hpc.types import BoolArray, ByteArray, Doubles, FloatArray, IndexArray, IntArray, Role, TargetKind, Targets
from gnnsoup_hpc.utils.hashing import file_sha256, fingerprint
from gnnsoup_hpc.utils.out_of_core import Rows, blocks

NO_LABELS = "none"  # in place of a task's kind: labels and splits are not read, for a model only predicts
_LARGEST = 1e100  # of targets of a regression, whose squares are summed up


@dataclass(frozen=True)
class SourceContext:
    """A private folder for what does not fit memory, gone afterwards; whether downloads are allowed; where to talk.

    kind: task.kind of the job, by which labels are read; or NO_LABELS.
    """

    scratch: Path
    offline: bool = False
    say: Callable[[str], None] = lambda text: None
    kind: str = "auto"

    def announce_download(self, what: str, where: Path, size: str) -> None:
        """Say that `what` is about to be downloaded to `where`; nothing ever waits for an answer.

        Raises: GraphError where downloads are not allowed.
        """
        if self.offline:
            raise GraphError(
                f"{what} is not in {where}, and --offline forbids to download it: run `gnnsoup prepare JOB` where there"
                " is a network, or put the set there (graph.root)"
            )
        self.say(f"prepare: downloading {what} ({size}) to {where}")


@contextmanager
def stage_download(place: Path) -> Iterator[Path]:
    """A private folder beside `place`, gone afterwards: what is downloaded is whole before it is moved to `place`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(".part", f".{place.name}.", place.parent, ignore_cleanup_errors=True) as private:
        yield Path(private)


@dataclass(frozen=True)
class SourceSplit:
    """Node ids by role, one array a column (way to split), or one for all; `words`: what they were given by."""

    parts: Mapping[Role, Sequence[IntArray]]
    words: str = ""

    @property
    def columns(self) -> int:
        """How many ways to split there are."""
        return max(map(len, self.parts.values()))

    def ids(self, column: int) -> dict[Role, IntArray]:
        """Node ids by role of one column."""
        return {role: part[column % len(part)] for role, part in self.parts.items()}


def cut_split(order: IntArray, train: int, validation: int) -> dict[Role, list[IntArray]]:
    """Parts of one column: the first `train` of `order`, as many as `validation` says, and the rest to test."""
    parts = np.split(order, [train, train + validation])
    return {role: [ids] for role, ids in zip((Role.TRAIN, Role.VALIDATION, Role.TEST), parts, strict=True)}


@dataclass(frozen=True)
class RawGraph:
    """Edges source -> destination as they come. Shapes: x (V, F), source/destination (E,), y as `Graph` has it.

    found: what kind of labels `auto` takes them for; `targets`: what they are taken for.

    splits: by name ("public", "stored"); None where the job asks for a random one and the source's own is unreadable.
    split_names: the arrays that are about splits. edge_values: names of arrays with values of edges, by the field of
    [graph] that says what to do with them. weight (E,), edge_attr (E, D): of each edge, where the job uses them and
    there are some.
    `sha256` is of all that was read. inverse: the set means both directions.
    """

    where: str
    sha256: str
    x: Rows
    y: Targets
    source: IndexArray
    destination: IndexArray
    classes: int | None = None
    splits: Mapping[str, SourceSplit] | None = field(default_factory=dict)
    files: tuple[SourceFile, ...] = ()
    split_names: tuple[str, ...] = ()
    edge_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inverse: bool = False
    targets: TargetKind = "classes"
    found: TargetKind = "classes"
    weight: Doubles | None = None
    edge_attr: npt.NDArray[Any] | None = None


def simplify(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def show_values(value: Any) -> str:
    """What a value is, in words: "int64 of shape (5,)", "a list"."""
    if isinstance(value, np.ndarray) or sp.issparse(value):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return str(getattr(value, "shown", f"a {type(value).__name__}"))


def list_few(items: Sequence[Any]) -> str:
    """The first of many, and how many more there are."""
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return ", ".join(map(str, items[:8])) + more


def describe_file(path: Path) -> SourceFile:
    """A file of a source, with its hash."""
    status = path.stat()  # before it is hashed: one that is written meanwhile is looked at again
    return SourceFile(str(path.absolute()), status.st_size, status.st_mtime_ns, file_sha256(path), status.st_ctime_ns)


def hash_files(files: Sequence[SourceFile]) -> str:
    """The hash of a source: that of its only file, or of the names and hashes of its files."""
    if len(files) == 1:
        return files[0].sha256
    return fingerprint(sorted([Path(file.path).name, file.sha256] for file in files))


def finish_unlabelled(raw: RawGraph, job: GraphJob) -> Graph:
    """The same of a graph on which a model only predicts: whatever labels and splits it has, the result has none."""
    bare = replace(raw, y=np.full(len(raw.y), -1), targets="classes", found="classes", classes=1, splits=None)
    filled = _check_nodes_and_edges(bare)
    return _make(bare, np.full(len(raw.y), Role.NONE, dtype=np.uint8), job, 1, filled)


def finish(raw: RawGraph, role: ByteArray, job: GraphJob, split: str = "") -> Graph:
    """The checked graph as the job wants it: edges turned, made symmetric, merged; each row's in-neighbours sorted.

    `split` says in words where the roles are from. Raises: GraphError saying what is wrong with the source, and where.
    """
    filled = _check_nodes_and_edges(raw)
    classes = _check_classes(raw) if raw.targets == "classes" else _check_targets(raw)
    _check_roles(raw, role, split)
    return _make(raw, role, job, classes, filled, split, _notes_on_labels(raw, role, classes))


def _make(
    raw: RawGraph,
    role: ByteArray,
    job: GraphJob,
    classes: int,
    filled: float,
    split: str = "",
    notes: Sequence[str] = (),
) -> Graph:
    matrix, facts = _structure(raw, job)
    facts = replace(facts, filled=filled)
    identity.check_asked(facts, job, raw.where)
    said, done = [], {"use": "used", "ignore": "ignored"}
    for key, values, what in (("edge_weight", raw.weight, "weights"), ("edge_attr", raw.edge_attr, "features")):
        if (way := getattr(job, key)) == "use" and values is None:
            raise GraphError(f"{raw.where}: graph.{key} = 'use', and it gives no {what} of edges: leave the field out")
        said += [f"{name} is {done[way]} (graph.{key} = {way!r})" for name in raw.edge_values.get(key, ())]
    weight, edge_attr = _merge_values(raw, job, matrix)
    return Graph(
        x=raw.x,
        y=raw.y,
        indptr=matrix.indptr.astype(np.int64),
        indices=matrix.indices,
        role=role,
        classes=classes,
        source=job.source,
        source_sha256=raw.sha256,
        files=raw.files,
        source_edges=len(raw.source),
        symmetric=job.undirected or facts.symmetric,
        facts=facts,
        split=split,
        notes=(*said, *raw.notes, *notes),
        targets=raw.targets,
        weight=weight,
        edge_attr=edge_attr,
    )


def _structure(raw: RawGraph, job: GraphJob) -> tuple[sp.csr_matrix, SourceFacts]:
    """The adjacency, row = destination, sorted, without duplicates; and what the source's own is like."""
    nodes = len(raw.y)
    source, destination = (raw.destination, raw.source) if job.reverse else (raw.source, raw.destination)
    ones = np.ones(len(source), dtype=np.int8)
    matrix = sp.coo_matrix((ones, (destination, source)), shape=(nodes, nodes)).tocsr()
    duplicates = len(source) - matrix.nnz
    matrix.data[:] = 1  # a sum of duplicates may have left any int8, zero among them
    self_loops = int(matrix.diagonal().sum(dtype=np.int64))
    if job.self_loops != "keep":
        matrix = (matrix - sp.diags(matrix.diagonal(), dtype=np.int8, format="csr")).tocsr()
    both = matrix + matrix.T
    symmetric = raw.inverse or both.nnz == matrix.nnz
    if job.undirected or symmetric:
        matrix = both.tocsr()
    del both
    if job.self_loops == "add":
        matrix = (matrix + sp.eye(nodes, dtype=np.int8, format="csr")).tocsr()
    matrix.sum_duplicates()
    columns = None if raw.splits is None else {name: own.columns for name, own in raw.splits.items()}
    return matrix, SourceFacts(columns, duplicates, raw.edge_values, symmetric, self_loops, nodes, raw.found)


def _merge_values(
    raw: RawGraph, job: GraphJob, matrix: sp.csr_matrix
) -> tuple[FloatArray | None, MergedFeatures | None]:
    """Weights (E,) and features (E, D) of the graph's entries, as far as there are any.

    Raises: GraphError where float32 does not hold the sum of a node's weights.
    """
    if raw.weight is None and raw.edge_attr is None:
        return None, None
    nodes = len(raw.y)
    source, destination = (raw.destination, raw.source) if job.reverse else (raw.source, raw.destination)
    row = np.repeat(np.arange(nodes), np.diff(matrix.indptr))
    edges = find_edges(row, matrix.indices, source, destination, nodes)
    weight = None if raw.weight is None else merge_weights(edges, raw.weight)
    if weight is not None and (node := find_overflow(weight, row)) is not None:
        raise GraphError(
            f"{raw.where}: weights of edges to node {node} add up to more than float32 holds: divide all by their mean"
        )
    edge_attr = None if raw.edge_attr is None else MergedFeatures(edges, row, raw.edge_attr)
    return None if weight is None else weight.astype(np.float32), edge_attr


def _check_nodes_and_edges(raw: RawGraph) -> float:
    """The share of the values of features that are not zero."""
    nodes = len(raw.y)
    if nodes == 0 or len(raw.x.shape) != 2 or raw.x.shape[0] != nodes:
        raise GraphError(f"{raw.where}: x has shape {raw.x.shape}, y has {nodes} labels; expected (V, F) and (V,)")
    if raw.x.shape[1] == 0:
        raise GraphError(f"{raw.where}: x has shape {raw.x.shape}; expected at least one feature a node")
    filled = _check_finite(raw)
    for name, ends in (("source", raw.source), ("destination", raw.destination)):
        if len(ends) and (ends.min() < 0 or ends.max() >= nodes):
            bad = int(ends.min() if ends.min() < 0 else ends.max())
            raise GraphError(f"{raw.where}: an edge's {name} is {bad}, out of range for {nodes} nodes")
    return filled


def find_labelled(y: Targets) -> BoolArray:
    """Which nodes have a label, or any of several, (V,)."""
    found = y >= 0 if y.ndim == 1 else ~np.isnan(y).all(1)
    return np.asarray(found)


def _check_targets(raw: RawGraph) -> int:
    """Of several labels a node, or numbers; how many."""
    numbers = raw.targets == "regression"
    odd = np.abs(raw.y) > _LARGEST if numbers else ~(np.isnan(raw.y) | (raw.y == 0) | (raw.y == 1))
    if odd.any():
        node, column = (int(place) for place in np.argwhere(odd)[0])
        wanted = f"numbers of at most {_LARGEST:g}" if numbers else "0 and 1"
        raise GraphError(
            f"{raw.where}: y holds {raw.y[node, column]} at node {node}, target {column}; expected {wanted}, and NaN"
            " where one is missing"
        )
    if not find_labelled(raw.y).any():
        raise GraphError(f"{raw.where}: no node has a label")
    if raw.targets == "multilabel" and raw.classes not in (None, raw.y.shape[1]):
        raise GraphError(f"{raw.where}: num_classes is {raw.classes}, but y has {raw.y.shape[1]} columns: correct one")
    return int(raw.y.shape[1])


def _check_classes(raw: RawGraph) -> int:
    nodes = len(raw.y)
    classes = int(raw.y.max()) + 1 if raw.classes is None else raw.classes
    wrong = np.flatnonzero((raw.y < -1) | (raw.y >= classes))
    if len(wrong):
        node = int(wrong[0])
        raise GraphError(
            f"{raw.where}: label {int(raw.y[node])} of node {node} is out of range [0, {classes}) (-1 = no label)"
        )
    if classes < 1:
        raise GraphError(f"{raw.where}: no node has a label")
    if raw.classes is None and classes > nodes:
        raise GraphError(
            f"{raw.where}: label {classes - 1} is out of range: more classes than {nodes} nodes; number"
            " them from 0 on, and write -1 for no label; numbers to be predicted are task.kind = 'regression'"
        )
    return classes


def _check_finite(raw: RawGraph) -> float:
    """The share of the values that are not zero."""
    filled = 0
    for block in blocks(raw.x.shape[0], 8 * raw.x.shape[1]):
        with np.errstate(over="ignore"):  # a longdouble may be beyond float64
            values = np.asarray(raw.x[block], dtype=np.float64)
        filled += int(np.count_nonzero(values))
        fine = np.isfinite(values).all(1)
        if not fine.all():
            row = block.start + int(np.flatnonzero(~fine)[0])
            raise GraphError(f"{raw.where}: x has a value that is not finite, first at node {row}; clean the features")
    return filled / (raw.x.shape[0] * raw.x.shape[1])


def _check_roles(raw: RawGraph, role: ByteArray, split: str) -> None:
    words = f"the split ({split})" if split else "the split"
    for wanted in (Role.TRAIN, Role.VALIDATION, Role.TEST):
        if not (role == wanted).any():
            raise GraphError(
                f"{raw.where}: {words} has no {wanted.name.lower()} node; training, souping and testing each need"
                " some: complete it, or change graph.split or its shares"
            )
    unlabelled = np.flatnonzero((role != Role.NONE) & ~find_labelled(raw.y))
    if len(unlabelled):
        raise GraphError(
            f"{raw.where}: node {int(unlabelled[0])} is in the split but has no label; take nodes without one out of it"
        )


def _notes_on_labels(raw: RawGraph, role: ByteArray, classes: int) -> list[str]:
    if raw.targets == "classes":
        return _notes_on_classes(raw, role, classes)
    trained = raw.y[role == Role.TRAIN]
    varied = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in trained.T])
    missing = int(np.isnan(raw.y[role != Role.NONE]).sum())
    notes = [f"targets that are missing: {missing} of those of nodes in the split"] if missing else []
    if not varied.all():
        alike = list_few(np.flatnonzero(~varied).tolist())
        notes.append(f"targets that are alike in all training nodes, of which nothing is learned: {alike}")
    return notes


def _notes_on_classes(raw: RawGraph, role: ByteArray, classes: int) -> list[str]:
    """What is odd about the labels: a mark for "no label", classes that no node or no training node has."""
    present, counts = np.unique(raw.y[raw.y >= 0], return_counts=True)
    notes, inside, last = [], present, int(present[-1])
    gap = last - (int(present[-2]) + 1 if len(present) > 1 else 0)
    if gap and raw.classes is None and last - gap == len(present) - 1:  # all classes before the gap are there
        words = f"label {last} (nodes: {counts[-1]}) follows {gap} classes without a node"
        notes.append(f"{words}: write -1 in its place if it means no label")
        inside, classes = present[:-1], last - gap
    missing = classes - len(inside)
    if missing:
        first = np.setdiff1d(np.arange(min(classes, len(inside) + 8)), inside)[:8]
        listed = ", ".join(map(str, first)) + f" … ({missing} in all)" * (missing > len(first))
        notes.append(f"classes without a node: {listed}; classes are numbered from 0 on, and -1 means no label")
    if len(present) == 1:
        notes.append(f"every label is {last}: there is nothing to learn")
    untrained = np.setdiff1d(present, raw.y[role == Role.TRAIN])
    if len(untrained):
        notes.append(f"classes without a training node, which no model learns: {list_few(untrained.tolist())}")
    return notes
