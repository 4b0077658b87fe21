"""A model taken out of a run: weights, and what is done to raw features and edges before it sees them."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.errors import FileError, GraphError
from gnnsoup_hpc.graph.edge_values import (
    MergedFeatures,
    find_edges,
    find_overflow,
    find_unfit,
    find_unfit_features,
    merge_weights,
)
from gnnsoup_hpc.graph.graph import Preparation
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.io import files, judged, states
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.models.registry import read_record
from gnnsoup_hpc.types import Doubles, State


@dataclass(frozen=True)
class Trained:
    """A soup or an ingredient. `graph` is [graph] of the job: what was done to edges.

    alpha: of a soup, (G, N) float64: shares of its `ingredients` in each of the `groups` of parameters; else (0, 0).
    target_mean, target_spread: of a regression, (T,): outputs times spread, plus mean, are in the source's units.
    """

    architecture: Model
    state: State
    preparation: Preparation
    graph: GraphJob
    target_mean: tuple[float, ...] = ()
    target_spread: tuple[float, ...] = ()
    alpha: Doubles = field(default_factory=lambda: np.empty((0, 0)))
    groups: tuple[str, ...] = ()
    ingredients: tuple[str, ...] = ()

    def as_pyg(self) -> nn.Module:
        """The module with these weights, ready to predict: of torch_geometric.nn, or the job's own."""
        module = self.architecture.to_module()
        module.load_state_dict(self.architecture.complete(self.state), strict=True)
        return module.eval()

    @torch.no_grad()
    def predict(self, x: Any, edge_index: Any, edge_weight: Any = None, edge_attr: Any = None) -> Tensor:
        """Scores (V, C) of every node of a graph as its source has it: features (V, F), edges (2, E). Raises: as below.

        edge_weight: weights of these edges, (E,), for a model that takes some, and for no other; edge_attr: their
        features, (E, D), likewise.
        Of a regression they are in the source's units. By the module of `as_pyg`, in memory, on one thread of Python.
        """
        features = self.features(x)
        edges = self.edges(edge_index, len(features))
        weight, attr = self.edge_values(edge_index, edge_weight, edge_attr, edges, len(features))
        adjacency = _make_adjacency(edges, len(features), weight, attr)
        if weight is None and attr is None:
            given = adjacency.matrix if self.architecture.takes == "sparse" else edges
            found: Tensor = self.as_pyg()(features, given)
        else:
            found = self.architecture.forward(self.state, Subgraph(features, adjacency))
        if self.target_mean:
            spread, mean = (torch.tensor(each, dtype=torch.float64) for each in (self.target_spread, self.target_mean))
            found = found.double() * spread + mean
        return found

    def features(self, raw: Any) -> Tensor:
        """Raw features (V, F), as the source has them, in the form the model was trained on, (V, F) float32.

        `raw` is what NumPy takes for an array, or a SciPy sparse matrix. Raises: GraphError for other shapes.
        """
        rows = np.asarray(raw.toarray() if sp.issparse(raw) else raw)
        if rows.ndim != 2 or rows.shape[1] != self.architecture.features:
            raise GraphError(
                f"features have shape {rows.shape}, and the model was trained on {self.architecture.features} features"
                f" a node: give raw features of shape (V, {self.architecture.features})"
            )
        return torch.from_numpy(self.preparation.apply(rows))

    def edges(self, raw: Any, nodes: int) -> Tensor:
        """Edges (2, E) of a graph of so many nodes, as the source has them, in the form the model was trained on.

        As the job says: turned round, self-loops removed or added, reverse edges added; duplicates are merged.
        Raises: GraphError for other shapes, or ids out of range.
        """
        found = np.asarray(raw)
        if found.ndim != 2 or len(found) != 2:
            raise GraphError(f"edges have shape {found.shape}: give sources and destinations, of shape (2, E)")
        if found.size and (found.min() < 0 or found.max() >= nodes):
            raise GraphError(
                f"an edge's end is {int(found.min())} or {int(found.max())}, out of range for {nodes} nodes"
            )
        ends = found[:: -1 if self.graph.reverse else 1].astype(np.int64)
        if self.graph.self_loops != "keep":
            ends = ends[:, ends[0] != ends[1]]
        if self.graph.undirected:
            ends = np.hstack([ends, ends[::-1]])
        if self.graph.self_loops == "add":
            ends = np.hstack([ends, np.tile(np.arange(nodes), (2, 1))])
        keys = np.unique(ends[1] * nodes + ends[0])
        return torch.from_numpy(np.stack([keys % nodes, keys // nodes]))

    def edge_values(
        self, raw: Any, edge_weight: Any, edge_attr: Any, edges: Tensor, nodes: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Weights (E,) and features (E, D), float32, of `edges`, which `self.edges` made of `raw`; None for none.

        edge_weight, edge_attr: those of `raw`.
        Raises: GraphError where the model takes some and there are none, or the other way round, or no such ones.
        """
        ends, width = np.asarray(raw)[:: -1 if self.graph.reverse else 1], self.architecture.edge_features
        _check_given("edge_weight", edge_weight, "weights", self.architecture.weighted)
        _check_given("edge_attr", edge_attr, "features", width > 0)
        if edge_weight is None and edge_attr is None:
            return None, None
        column, row = edges.numpy()
        made, weight, attr = find_edges(row, column, ends[0], ends[1], nodes), None, None
        if edge_weight is not None:
            values = np.asarray(edge_weight, dtype=np.float64)
            if values.shape != ends.shape[1:] or find_unfit(values) is not None:
                raise GraphError(
                    f"edge_weight has shape {values.shape}: give a finite number from 0 on an edge, {ends.shape[1:]}"
                )
            merged = merge_weights(made, values)
            if (node := find_overflow(merged, row)) is not None:
                raise GraphError(
                    f"edge_weight: those of edges to node {node} add up to more than float32 holds: give weights of the"
                    " size that the model was trained with"
                )
            weight = torch.from_numpy(merged.astype(np.float32))
        if edge_attr is not None:
            values = np.asarray(edge_attr)
            values = values.reshape(len(values), -1) if values.ndim == 1 else values
            wanted = ends.shape[1], width
            if values.shape != wanted or values.dtype.kind not in "fiub" or find_unfit_features(values) is not None:
                raise GraphError(f"edge_attr has shape {values.shape}: give {width} finite numbers an edge, {wanted}")
            attr = torch.from_numpy(MergedFeatures(made, row, values)[:])
        return weight, attr


def read_model(path: Path) -> Trained:
    """The model in a soup's file, which is enough for it, or in an ingredient's, with graph.h5 of its run.

    Raises: FileError where a file is damaged, or an ensemble's, which has no weights.
    """
    if path.parent.name == "ingredients":
        return _ingredient(path)
    with files.read_file(path, soup_store.KIND, soup_store.VERSION) as file:
        mix = file["mixture"]
        if mix.attrs["of"] == "predictions":
            raise FileError(
                f"{path} is an ensemble, which has no weights of its own: read its ingredients, and average their"
                " softmax outputs"
            )
        architecture = read_record(json.loads(file["provenance"].attrs["architecture"]), *_find_code(path, file))
        state = states.get_finite(path, file)
        states.check_shapes(path, state, architecture)
        seen, preparation = judged.get(file["metrics"]), graph_store.get_preparation(file)
        scale, names = (seen.target_mean, seen.target_spread), ("groups", "ingredients")
        mixture = mix["alpha"][:], *(tuple(mix[name].asstr()[:]) for name in names)
        return Trained(architecture, state, preparation, _graph_job(path, file), *scale, *mixture)


def _ingredient(path: Path) -> Trained:
    found, origin = ingredient_store.read(path), ingredient_store.origin(path)
    record = {name.removeprefix("model."): value for name, value in origin.items() if name.startswith("model.")}
    with files.read_file(path, ingredient_store.KIND, ingredient_store.VERSION) as file:
        code = _find_code(path, file)
    try:
        architecture = read_record(record, *code)
    except KeyError as error:
        raise FileError(f"{path}: its origin lacks model.{error.args[0]}") from None
    states.check_shapes(path, found.state, architecture)
    with graph_store.open_file(path.parent.parent / "graph.h5") as graph, files.explain_damage(graph.path):
        if graph.sha256 != origin.get("graph_sha256"):
            raise FileError(f"{path} was trained on another graph than {graph.path}: put it beside its own graph.h5")
        scale = found.judged.target_mean, found.judged.target_spread
        return Trained(architecture, found.state, graph.preparation, _graph_job(graph.path, graph.file), *scale)


def _graph_job(path: Path, file: h5py.File) -> GraphJob:
    """What the job says of edges; fields that an older version did not know had the effect of what is their default."""
    told = _read_job(path, file).get("graph", {})
    return GraphJob(**{name: told[name] for name in ("undirected", "reverse", "self_loops") if name in told})


def _find_code(path: Path, file: h5py.File) -> tuple[str, str]:
    """Where the job has a module's factory, and its revision."""
    told = _read_job(path, file).get("model", {})
    return str(told.get("folder", "")), str(told.get("revision", ""))


def _read_job(path: Path, file: h5py.File) -> dict[str, Any]:
    try:
        return tomllib.loads(file["provenance/job"].asstr()[()])
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path}: provenance/job is no TOML: {error}") from None


def _check_given(name: str, given: Any, what: str, taken: bool) -> None:
    """Raises: GraphError where a model takes such values of edges and there are none, or the other way round."""
    if given is not None and not taken:
        raise GraphError(f"{name} is given, and the model takes no {what} of edges: leave it out")
    if given is None and taken:
        raise GraphError(f"the model was trained with {what} of edges: give {name}, one of each edge")


def _make_adjacency(edges: Tensor, nodes: int, weight: Tensor | None, edge_attr: Tensor | None) -> Adjacency:
    """Of edges that are sorted by destination."""
    counts = torch.bincount(edges[1], minlength=nodes)
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Adjacency(start, edges[0], weight=weight, edge_attr=edge_attr)
