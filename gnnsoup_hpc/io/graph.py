"""graph.h5: the prepared graph, nodes renumbered so that each part is contiguous. Format: docs/format.md.

It is written block by block in the order of parts: nothing of the size of the features is in memory. Within a part
nodes keep the source's order, so what a slab of source rows holds of one part is one contiguous piece of the file:
features are read once, in order, and written in K pieces a slab.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp

from gnnsoup_hpc import __version__
from gnnsoup_hpc.config import Job, TaskJob
from gnnsoup_hpc.config.task import NO_TASK, TaskSpec, resolve_task
from gnnsoup_hpc.errors import FileError, PartError, RunError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.graph.graph import Graph, Partition, Preparation, SourceFacts, SourceFile
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.files import DatasetRows
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.types import ByteArray, FloatArray, IndexArray, IntArray, Role, TargetKind, Targets
from gnnsoup_hpc.utils.hashing import Content, canonical, content_sha256
from gnnsoup_hpc.utils.out_of_core import blocks, index_type, read_by_ids

KIND, VERSION = "graph", 2
ENTRIES = 1 << 22  # of the adjacency, renumbered or checked together
SLAB = 16 << 20  # bytes of features that are looked at for zeros together
_ADVICE = ": run `gnnsoup prepare JOB --again`, which makes it again"
_RESERVED = {  # what version 2 may hold, and only a later program can use
    "nodes/targets_mask": "several targets a node",
}


def write(
    path: Path, graph: Graph, preparation: Preparation, partition: Partition, job: Job, spent: Callable[[], Measurement]
) -> None:
    """Publish graph.h5, block by block; `spent` tells at the end what making it cost."""
    about = "graph, prepared and cut into contiguous parts"
    sparse = identity.keeps_sparse(job.graph, graph.facts)
    features = round(8 * (graph.facts.filled or 0) * graph.x.shape[1]) if sparse else 4 * graph.x.shape[1]
    bulk = graph.x.shape[0] * (features + 17) + graph.y.nbytes + graph.indices.nbytes
    bulk += sum(4 * prod(values.shape) for values in graph.edge_values.values())
    with files.create_file(path, KIND, VERSION, about, bulk_bytes=bulk) as file:
        file.attrs["graph_sha256"] = _write_nodes_and_edges(file, graph, partition, sparse)
        _write_parts(file, graph, partition)
        put_preparation(file, preparation)
        file.attrs.update(source=graph.source, source_sha256=graph.source_sha256, source_edges=graph.source_edges)
        file.attrs.update(classes=graph.classes, split=graph.split)
        files.put_provenance(
            file,
            job.to_toml(),
            sections=canonical(job.model_dump(mode="json", include={"graph", "partition"})),
            used=canonical(identity.fields_used(job, graph.facts)),
            facts=canonical(_list_facts(graph.facts)),
        )
        files.put(file["provenance"], "notes", list(graph.notes), "1", "what preparing had to say of the source")
        listed = canonical([asdict(source) for source in graph.files])
        files.put(file["provenance"], "source_files", listed, "JSON", "files that the graph was read from")
        files.put_cost(file, spent())


def put_preparation(file: h5py.File, preparation: Preparation) -> None:
    """Write how features were prepared; what is to be done to new ones."""
    group = file.create_group("preparation", track_order=True)
    group.attrs["kind"] = preparation.kind
    files.put(group, "mean", preparation.mean, "1", "mean subtracted from each feature; empty = none")
    files.put(group, "scale", preparation.scale, "1", "divisor of each feature after that; empty = none")


def get_preparation(file: h5py.File) -> Preparation:
    """How features were prepared. Raises: KeyError where that is not said."""
    group = file["preparation"]
    return Preparation(files.get_text(group, "kind"), group["mean"][:], group["scale"][:])


def _write_nodes_and_edges(file: h5py.File, graph: Graph, partition: Partition, sparse: bool) -> str:
    """Write nodes/ and edges/. The hash of what a model sees, in the source's node order, whatever the parts."""
    new_id = np.empty(graph.nodes, dtype=np.int64)
    new_id[partition.order] = np.arange(graph.nodes)
    nodes = file.create_group("nodes", track_order=True)
    content = Content()
    for name, values in graph.edge_values.items():
        content.add(name, np.float32, values.shape, (values[block] for block in _list_blocks(values)))
    indices = (graph.indices[block] for block in blocks(len(graph.indices), 8))
    content.add("indices", np.int64, graph.indices.shape, indices)
    content.add("indptr", np.int64, graph.indptr.shape, [graph.indptr])
    content.add("role", np.uint8, graph.role.shape, [graph.role])
    if graph.targets != "classes":
        content.add("targets", graph.y.dtype, graph.y.shape, [graph.y])
    if sparse:
        _write_sparse_features(nodes, graph, partition, content)
    else:
        x = files.write_space(nodes, "x", (graph.nodes, graph.x.shape[1]), np.float32, "1", "features, prepared")
        content.add("x", np.float32, graph.x.shape, _write_features(x, graph, partition, new_id))
    order = partition.order
    if graph.targets == "classes":
        content.add("y", np.int64, graph.y.shape, [graph.y])
        files.put(nodes, "y", graph.y[order], "1", "class label; -1 = none")
    else:
        made = files.put(nodes, "targets", graph.y[order], "1", "targets, as in the source; NaN = missing")
        made.attrs["task"] = graph.targets
    files.put(nodes, "split", graph.role[order], "1", "0 no role, 1 train, 2 validation, 3 test")
    files.put(nodes, "original_id", order, "1", "node id in the source")
    _write_edges(file, graph, order, new_id)
    return content.sha256


def _write_parts(file: h5py.File, graph: Graph, partition: Partition) -> None:
    """Write parts/: where they begin, and what METIS says of them."""
    parts = file.create_group("parts", track_order=True)
    files.put(parts, "ptr", partition.ptr, "1", "first node of each part")
    counts = np.bincount(partition.part[graph.role == Role.VALIDATION], minlength=partition.parts)
    files.put(parts, "validation", counts, "1", "validation nodes of each part")
    parts.attrs.update(partition.options)
    parts.attrs.update(edge_cut=partition.edge_cut, undirected_edges=partition.edges, balance=partition.balance)
    parts.attrs["validation_balance"] = partition.validation_balance
    parts.attrs["part_sha256"] = content_sha256({"part": partition.part})


def _write_features(x: h5py.Dataset, graph: Graph, partition: Partition, new_id: IntArray) -> Iterator[FloatArray]:
    """Put features where they belong in the file; yield them as they come."""
    for slab in blocks(graph.nodes, 4 * graph.x.shape[1]):
        rows = graph.x[slab]
        part = partition.part[slab]
        by_part = np.argsort(part, kind="stable")
        starts = np.flatnonzero(np.diff(part[by_part], prepend=-1))
        for mine in np.split(by_part, starts[1:]):
            first = int(new_id[slab.start + mine[0]])
            x[first : first + len(mine)] = rows[mine]
        yield rows


def _write_sparse_features(nodes: h5py.Group, graph: Graph, partition: Partition, content: Content) -> None:
    """Put features without their zeros, which are in memory as a whole; rows as CSR, columns rising."""
    width = graph.x.shape[1]
    found = [sp.csr_matrix(graph.x[slab]) for slab in blocks(graph.nodes, 8 * width, SLAB)]
    matrix = sp.vstack(found, format="csr", dtype=np.float32)
    del found
    content.add("x_indices", np.int64, matrix.indices.shape, [matrix.indices])
    content.add("x_indptr", np.int64, matrix.indptr.shape, [matrix.indptr])
    content.add("x_shape", np.int64, (2,), [np.array(matrix.shape)])
    content.add("x_values", np.float32, matrix.data.shape, [matrix.data])
    matrix = matrix[partition.order]
    about = "features, prepared, without zeros: start of each node's values"
    files.put(nodes, "x_indptr", matrix.indptr.astype(np.int64), "1", about)
    nodes.attrs["width"] = width
    for name, values, about in (
        ("x_indices", matrix.indices.astype(np.int32), "feature of each value, rising within a node"),
        ("x_values", matrix.data, "values, not zero"),
    ):
        files.write_space(nodes, name, values.shape, values.dtype, "1", about)[:] = values


def _write_edges(file: h5py.File, graph: Graph, order: IntArray, new_id: IntArray) -> None:
    edges = file.create_group("edges", track_order=True)
    indptr = np.concatenate([[0], np.cumsum(np.diff(graph.indptr)[order])]).astype(np.int64)
    files.put(edges, "indptr", indptr, "1", "start of each destination's in-neighbours")
    indices = files.write_space(
        edges, "indices", graph.indices.shape, index_type(graph.nodes), "1", "in-neighbours, sorted"
    )
    meant = {"edge_weight": "weight", "edge_attr": "features"}
    stored = {
        name: files.write_space(edges, name, values.shape, np.float32, "1", f"{meant[name]} of each entry of indices")
        for name, values in graph.edge_values.items()
    }
    start = 0
    while start < graph.nodes:
        stop = int(np.searchsorted(indptr, indptr[start] + ENTRIES, side="right")) - 1
        stop = min(graph.nodes, max(stop, start + 1))
        if indptr[start] < indptr[stop]:
            found, entry = _renumber(graph, order[start:stop], new_id)
            indices[indptr[start] : indptr[stop]] = found
            for name, values in graph.edge_values.items():
                for block in _list_blocks(values, len(entry)):
                    place = indptr[start] + block.start
                    stored[name][place : indptr[start] + block.stop] = values[entry[block]]
        start = stop


def _list_blocks(values: Any, count: int | None = None) -> Iterator[slice]:
    """Of so many of the entries whose values these are, or of all."""
    return blocks(values.shape[0] if count is None else count, 8 * prod(values.shape[1:]))


def _renumber(graph: Graph, nodes: IntArray, new_id: IntArray) -> tuple[IntArray, IntArray]:
    """In-neighbours of `nodes` by their new ids, sorted in each row; which entries these were, if they have values."""
    counts = graph.indptr[nodes + 1] - graph.indptr[nodes]
    row = np.repeat(np.arange(len(nodes)), counts)
    ends = np.cumsum(counts)
    entry = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(graph.indptr[nodes], counts)
    keyed = row * graph.nodes + new_id[graph.indices[entry]]  # rows are already in order, so one sort does both
    if graph.edge_values:
        order = np.argsort(keyed)
        return np.asarray(keyed[order] % graph.nodes), entry[order]
    keyed.sort()
    return np.asarray(keyed % graph.nodes), entry[:0]


class GraphFile:
    """An open graph.h5: sizes and where it comes from at hand, bulk data read part by part.

    Raises: FileError where what is not bulk is missing or damaged.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file = path, file
        self._open: dict[str, DatasetRows] = {}  # to open a dataset takes longer than to read a few rows of it
        with files.explain_damage(path, _ADVICE, (OSError, KeyError, ValueError)):  # the last of a text that is no JSON
            about, provenance = file.attrs, file["provenance"]
            self.ptr: IntArray = file["parts/ptr"][:].astype(np.int64)  # first node of each part, (K + 1,)
            self.parts, self.nodes = len(self.ptr) - 1, int(self.ptr[-1])
            self.validation_counts: IntArray = file["parts/validation"][:].astype(np.int64)  # nodes of each part, (K,)
            self.cut: dict[str, Any] = dict(file["parts"].attrs)  # METIS's options and what came of them
            self.edges = len(file["edges/indices"])  # directed entries
            self.weighted = "edges/edge_weight" in file  # whether entries have weights
            self.edge_features = _read_width(file, "edges/edge_attr")  # how many features an entry has
            self.id_type: Any = file["edges/indices"].dtype  # int32, or int64 from 2^31 nodes on
            # What nodes have: of classes how many there are, of other targets how many a node has.
            self.targets: TargetKind = "classes" if "nodes/y" in file else _read_target_kind(file)
            self.sparse = "nodes/x_indptr" in file  # whether features are kept without zeros
            width = file["nodes"].attrs["width"] if self.sparse else file["nodes/x"].shape[1]
            self.features, self.classes = int(width), int(about["classes"])
            self.values = len(file["nodes/x_values"]) if self.sparse else self.nodes * self.features  # of features
            self.sha256 = str(about["graph_sha256"])  # of the prepared graph, independent of the partition
            self.source = str(about["source"])  # as the job names it
            self.source_sha256 = str(about["source_sha256"])  # of its only file, or of its files' names and hashes
            self.split = str(about.get("split", ""))  # in words; here and below, older versions have none
            self.job = str(provenance["job"].asstr()[()])  # the resolved job that made it, as TOML
            self.notes = tuple(provenance["notes"].asstr()[()]) if "notes" in provenance else ()
            listed = json.loads(provenance["source_files"].asstr()[()]) if "source_files" in provenance else ()
            self.source_files = tuple(SourceFile(**source) for source in listed)  # as they were then
            self.facts = _read_facts(provenance)
            self.made_with = _read_made_with(provenance)
            self.measurement = files.get_cost(file)  # what making it cost
            self.preparation = get_preparation(file)

    def runs_of(self, chosen: Sequence[int]) -> list[tuple[int, int]]:
        """Node ranges that hold the chosen parts, neighbours merged, so that a union is few slices.

        Raises: PartError for a repeated or unknown part, naming it.
        """
        ordered = sorted(chosen)
        if not ordered:
            raise PartError(f"no part of {self.path} is chosen")
        for part, following in zip(ordered, [*ordered[1:], None], strict=True):
            if not 0 <= part < self.parts:
                raise PartError(f"there is no part {part} in {self.path}; it has parts 0 to {self.parts - 1}")
            if part == following:
                raise PartError(f"part {part} is chosen twice")
        neighbours = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
        return [(int(self.ptr[run[0]]), int(self.ptr[run[-1] + 1])) for run in neighbours]

    def x(self, start: int, stop: int, out: FloatArray | None = None) -> FloatArray:
        """Features of nodes start to stop, (stop - start, F), in `out`, contiguous float32, where it is given."""
        found = np.empty((stop - start, self.features), dtype=np.float32) if out is None else out
        if self.sparse:
            self.sparse_x([(start, stop)]).toarray(out=found)
        else:
            self._dataset("nodes/x").read_into(start, stop, found)
        return found

    def sparse_x(self, runs: Sequence[tuple[int, int]]) -> sp.csr_matrix:
        """Features of ranges of nodes, one range after the other, (n, F), of a graph that is `sparse`.

        Raises: FileError where a value is of no feature, or out of its row's order, as no kernel may meet it.
        """
        bounds = [np.asarray(self._read("nodes/x_indptr", start, stop + 1), dtype=np.int64) for start, stop in runs]
        ends = np.cumsum([0, *(each[-1] - each[0] for each in bounds)])
        indices, values = np.empty(ends[-1], dtype=np.int32), np.empty(ends[-1], dtype=np.float32)
        for each, first, last in zip(bounds, ends[:-1], ends[1:], strict=True):
            self._dataset("nodes/x_indices").read_into(int(each[0]), int(each[-1]), indices[first:last])
            self._dataset("nodes/x_values").read_into(int(each[0]), int(each[-1]), values[first:last])
            if (np.diff(each) < 0).any() or not _are_rows(each, indices[first:last], self.features):
                raise FileError(
                    f"{self.path} is damaged: values {each[0]} to {each[-1] - 1} are not those of features{_ADVICE}"
                )
        starts = [each[:-1] - each[0] + first for each, first in zip(bounds, ends[:-1], strict=True)]
        indptr = np.concatenate([*starts, ends[-1:]]).astype(index_type(int(ends[-1])))
        return sp.csr_matrix((values, indices, indptr), shape=(len(indptr) - 1, self.features), copy=False)

    def x_of(self, ids: IntArray) -> FloatArray:
        """Features of the nodes `ids`, (n, F)."""
        return read_by_ids(self.x, (self.nodes, self.features), np.float32, ids)

    def resolve_task(self, job: TaskJob) -> TaskSpec:
        """What the job asks for on this graph. Raises: JobError where that means nothing here."""
        return resolve_task(job, self.targets, self.classes, self.source)

    def y(self, start: int, stop: int) -> Targets:
        """Labels of nodes start to stop: classes, (n,) int64, or targets, (n, T) floating, NaN where one is missing."""
        if self.targets == "classes":
            return np.asarray(self._read("nodes/y", start, stop), dtype=np.int64)
        return np.asarray(self._read("nodes/targets", start, stop))

    def original_ids(self, start: int, stop: int) -> IntArray:
        """Ids in the source of nodes start to stop."""
        return np.asarray(self._read("nodes/original_id", start, stop), dtype=np.int64)

    def role(self, start: int, stop: int) -> ByteArray:
        """Roles of nodes start to stop."""
        return np.asarray(self._read("nodes/split", start, stop), dtype=np.uint8)

    def rows(self, start: int, stop: int) -> tuple[IntArray, IntArray]:
        """(in-degree of, all in-neighbours of) nodes start to stop."""
        bounds = self.bounds(start, stop)
        return np.diff(bounds), self.neighbours(bounds).astype(np.int64, copy=False)

    def bounds(self, start: int, stop: int) -> IntArray:
        """Where the in-neighbours of nodes start to stop begin, and the last ones end: (stop - start + 1,)."""
        return np.asarray(self._read("edges/indptr", start, stop + 1), dtype=np.int64)

    def count_values(self, nodes: IntArray) -> IntArray:
        """How many values the features of the nodes before each of `nodes` have, of a graph that is `sparse`."""
        return np.asarray(self._read("nodes/x_indptr"), dtype=np.int64)[nodes]

    def count_degrees(self) -> tuple[int, ...]:
        """How many nodes have in-degree 0, 1, ..."""
        return tuple(np.bincount(np.diff(self.bounds(0, self.nodes))).tolist())

    def neighbours(self, bounds: IntArray, out: IndexArray | None = None) -> IndexArray:
        """In-neighbours of consecutive nodes whose `bounds` are given, (bounds[-1] - bounds[0],) of `id_type`.

        They are read into `out`, contiguous, where it is given.
        Raises: FileError where one is outside the graph or out of its row's order, as no kernel may meet it.
        """
        first, last = int(bounds[0]), int(bounds[-1])
        found: IndexArray = np.empty(last - first, dtype=self.id_type) if out is None else out
        self._dataset("edges/indices").read_into(first, last, found)
        if not _are_rows(bounds, found, self.nodes):
            raise FileError(f"{self.path} is damaged: edges {first} to {last - 1} are not those of a graph{_ADVICE}")
        return found

    def weights(self, bounds: IntArray, out: FloatArray | None = None) -> FloatArray:
        """Weights of what `neighbours` gives, as float32, of a graph that is `weighted`; in `out` where it is given.

        Raises: FileError where one is no weight.
        """
        first, last = int(bounds[0]), int(bounds[-1])
        found = np.empty(last - first, dtype=np.float32) if out is None else out
        self._dataset("edges/edge_weight").read_into(first, last, found)
        if len(found) and not (found.min() >= 0 and found.max() < np.inf):  # so neither is NaN
            raise FileError(f"{self.path} is damaged: of edges {first} to {last - 1} one has no weight{_ADVICE}")
        return found

    def edge_attr(self, first: int, last: int, out: FloatArray | None = None) -> FloatArray:
        """Features of entries first to last - 1 of edges/indices, (last - first, D) float32, in `out` where given."""
        found = np.empty((last - first, self.edge_features), dtype=np.float32) if out is None else out
        if self.edge_features:
            self._dataset("edges/edge_attr").read_into(first, last, found)
        return found

    def edge_attr_of(self, entries: IntArray) -> FloatArray:
        """Features of the entries of those places in edges/indices, (n, D)."""
        return read_by_ids(self.edge_attr, (self.edges, self.edge_features), np.float32, entries)

    def _dataset(self, name: str) -> DatasetRows:
        if name not in self._open:
            with files.explain_damage(self.path, _ADVICE):
                self._open[name] = DatasetRows(self.path, self.file[name], _ADVICE)
        return self._open[name]

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        with files.explain_damage(self.path, _ADVICE):
            return self._dataset(name).dataset[start:stop]


def _are_rows(bounds: IntArray, indices: IndexArray, nodes: int) -> bool:
    """Whether the entries lie in [0, nodes) and rise in each row; bounds (n + 1,), where rows start in the file."""
    for piece in blocks(len(indices), 1, ENTRIES):
        low = max(0, piece.start - 1)
        entries = indices[low : piece.stop]
        rises = entries[1:] > entries[:-1]
        first, last = np.searchsorted(bounds, bounds[0] + [low + 1, piece.stop])
        rises[bounds[first:last] - bounds[0] - low - 1] = True  # the first entry of a row
        if not rises.all() or entries.view(f"u{entries.itemsize}").max() >= nodes:  # negative ones are huge there
            return False
    return True


@contextmanager
def open_file(path: Path, verify: bool = False) -> Iterator[GraphFile]:
    """Yield the graph in a file, whichever job made it; `verify` reads the file once more, to see that it is whole.

    Who computes on a graph verifies it: features and edges carry no checksums of their own from version 2 on.
    Raises: FileError where the file is missing, damaged, or holds what this version makes no use of.
    """
    with files.open_file(path, KIND, VERSION, verify) as file:
        for name, meaning in _RESERVED.items():
            if name in file:
                raise FileError(
                    f"{path} has {meaning} ({name}), which gnnsoup_hpc {__version__} makes no use of: use a newer one"
                )
        if "nodes/y" in file and "nodes/targets" in file:
            raise FileError(f"{path} has both nodes/y and nodes/targets: leave one of them out")
        yield GraphFile(path, file)


def find_difference(graph: GraphFile, job: Job) -> tuple[str, Any, Any] | None:
    """The first field in which a job asks for another graph: its name, its value in the file, that in the job."""
    made = graph.made_with
    if graph.facts is not None:
        wanted = identity.fields_used(job, graph.facts)
    else:
        wanted = _list_fields(job, job)
        # A field that an older version did not know had the effect of what is its default now.
        made = {key: made.get(key, default) for key, default in _list_fields(job, Job(name="any")).items()}
    key = next((key for key in [*wanted, *made] if made.get(key) != wanted.get(key)), None)
    if key is None:
        return None
    without = {f"graph.{name}": "ignore" for name in identity.EDGE_VALUES}
    without |= {"partition.edge_weight": "ignore", "graph.feature_layout": "dense"}
    other = without.get(key, NO_TASK.get(key))
    own: dict[str, Any] = {"graph.split": job.graph.split}  # in the job's own words
    own |= {} if job.task.kind == "auto" else {"task.kind": job.task.kind}
    return key, made.get(key, other), own.get(key, wanted.get(key, other))


@contextmanager
def open_graph(path: Path, job: Job, verify: bool = False) -> Iterator[GraphFile]:
    """Yield the graph of a run, once it has shown to be the one that `job` describes.

    Raises: RunError where it is missing, damaged, or was made from another [graph] or [partition].
    """
    if not path.exists():
        raise RunError(
            f"{path} does not exist yet: run `gnnsoup train JOB` first, or `gnnsoup import JOB FILES`; both prepare the"
            " graph"
        )
    with ExitStack() as stack:
        try:
            graph = stack.enter_context(open_file(path, verify))
        except FileError as error:
            raise RunError(f"{str(error).removesuffix(_ADVICE)}{_ADVICE}") from None
        if (other := find_difference(graph, job)) is not None:
            key, made, wanted = other
            cut_anew = "or `gnnsoup prepare JOB --again` to cut it anew (ingredients stay valid)"
            raise RunError(
                f"{path} was made with {key} = {made!r}, the job says {wanted!r}: give the job a name of its own"
                f" (--set name=…), {cut_anew if key.startswith('partition.') else f'or remove {path.parent}'}"
            )
        yield graph


def find_graph(job: Job, folder: Path) -> Path | None:
    """The prepared graph in `folder` that is the job's: read with its fields, from what its source holds now.

    Files that cannot be read, or are no graphs, are passed over: whoever makes a graph finds them damaged. So are those
    that do not list the fields `used`, which may have been read otherwise than today; runs that have one go on with it.
    """
    for path in sorted(folder.glob("*.h5")):
        try:
            with open_graph(path, job) as graph:
                if graph.facts is not None and identity.find(job.graph, graph.source_files, graph.source_sha256).same:
                    return path
        except RunError:
            continue
    return None


def _read_width(file: h5py.File, name: str) -> int:
    """Columns of a matrix, 0 where it is not there. Raises: ValueError where it is none."""
    _, width = file[name].shape if name in file else (0, 0)
    return int(width)


def _read_target_kind(file: h5py.File) -> TargetKind:
    """Raises: KeyError where there are none; ValueError where their kind is none that this version knows."""
    kinds: tuple[TargetKind, ...] = "multilabel", "regression"
    found = files.get_text(file["nodes/targets"], "task")
    return kinds[kinds.index(found)]


def _list_facts(facts: SourceFacts) -> dict[str, Any]:
    """As JSON; without what earlier versions do not know, where it changes nothing."""
    known = {key: value for key, value in asdict(facts).items() if (key, value) != ("targets", "classes")}
    if known["filled"] is None or known["filled"] > identity.MOST_FILLED:
        del known["filled"]
    return known


def _read_facts(provenance: h5py.Group) -> SourceFacts | None:
    """What its source holds beside the graph; None for a graph that does not list the fields `used`."""
    if "facts" not in provenance.attrs:
        return None
    known = json.loads(provenance.attrs["facts"])
    return SourceFacts(**known | {"edge_values": {name: tuple(of) for name, of in known["edge_values"].items()}})


def _read_made_with(provenance: h5py.Group) -> dict[str, Any]:
    """The fields of [graph] and [partition] that the graph is a function of, by dotted name.

    As far as they were asked for then, where the file does not list the fields `used`.
    """
    if "used" in provenance.attrs:
        return dict(json.loads(provenance.attrs["used"]))
    sections = json.loads(provenance.attrs["sections"])
    made = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    made["graph.source"] = identity.name_fields(made["graph.source"])
    if made["graph.split"] == "stored":  # where it mattered too, but was not among what was asked for
        made["graph.split_index"] = tomllib.loads(provenance["job"].asstr()[()])["graph"].get("split_index", 0)
    return made


def _list_fields(job: Job, values: Job) -> dict[str, Any]:
    """The fields by which the graph of `job` was told from others before files listed those `used`, as in `values`.

    A split was known by its name in the job, whatever the source had.
    """
    graph = job.graph
    unused = {"root"} | {name for name in identity.EDGE_VALUES if getattr(graph, name) != "use"}
    unused |= set() if graph.feature_layout == "sparse" else {"feature_layout"}
    unused |= set() if graph.source.startswith("synthetic:") else {"synthetic"}
    unused |= set() if graph.split in ("random", "auto") else {"split_seed", "train_share", "validation_share"}
    unused |= {"label_share"} if graph.label_share == 1.0 else set()
    unused |= {"split_index"} if graph.split == "random" else set()
    known = values.model_dump(mode="json", include={"graph", "partition"})
    wanted = {f"graph.{key}": value for key, value in known["graph"].items() if key not in unused}
    wanted |= {f"partition.{key}": value for key, value in known["partition"].items()}
    return wanted | {"graph.source": identity.name_fields(values.graph.source)}
