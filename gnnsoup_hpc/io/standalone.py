"""Predict with the model that gnnsoup_hpc wrote beside this file, without gnnsoup_hpc.

    python NAME.py GRAPH SCORES.npy

GRAPH is a file of .npz, or of torch.save (.pt, .pth) with a Data of PyTorch Geometric or a dict of tensors. It has x
(V, F) and edge_index (2, E), as the model's graph had them before anything was done to them, and what else the model
takes: edge_weight (E,), weights of edges, and edge_attr (E, D), their features. The scores are (V, C), a row a node:
logits, or the numbers of a regression. From Python: `predict(x, edge_index)`. NAME.json says what the model is and what
is done to x and edges; NAME.pt or NAME.safetensors has its weights. It needs NumPy, PyTorch, PyTorch Geometric, and the
module's own code where NAME.json names some.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import warnings
import zipfile
from functools import cache, reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__)
GIVE = "give a file of .npz, or torch.save({'x': x, 'edge_index': edge_index}, PATH)"


@cache
def read_card() -> dict[str, Any]:
    """What the model is, where it is from, and what is done to features and edges."""
    found: dict[str, Any] = json.loads(HERE.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def load_model() -> nn.Module:
    """The model with its weights, ready to predict; what makes it is looked for beside this file first."""
    card = read_card()
    place, (module, _, name) = HERE.with_name(card["weights"]["file"]), card["model"]["made_by"].partition(":")
    if place.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(place)
    else:
        state = torch.load(place, weights_only=True)
    arguments = dict(card["model"]["arguments"])
    if "deg" in arguments:
        arguments["deg"] = torch.tensor(arguments["deg"])
    sys.path.insert(0, str(HERE.resolve().parent))
    try:
        make: Any = reduce(getattr, name.split("."), import_module(module))
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}: put the code of {card['model']['made_by']} beside {HERE}") from None
    model: nn.Module = make(**arguments)
    model.load_state_dict(state, strict=True)
    return model.float().eval()


def prepare_features(raw: Any) -> Tensor:
    """Raw features (V, F) as the model was trained on them, float32, computed in float64."""
    how = read_card()["preparation"]
    x = np.asarray(raw, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != read_card()["model"]["features"]:
        raise SystemExit(f"features have shape {x.shape}: the model takes another number of them")
    if how["features"] == "standardise":
        x = (x - np.array(how["mean"])) / np.array(how["scale"])
    elif how["features"] == "scale":
        x = x / np.array(how["scale"])
    elif how["features"] == "row-normalise":
        for reduce in (np.max, np.sum):
            divisor = reduce(np.abs(x), 1, keepdims=True)
            x = x / np.where(divisor == 0.0, 1.0, divisor)
    elif how["features"] != "none":
        raise SystemExit(f"features were prepared by {how['features']!r}, which this script does not know")
    return torch.from_numpy(x.astype(np.float32))


def prepare_edges(raw: Any, nodes: int, weight: Any = None, attr: Any = None) -> dict[str, Tensor]:
    """Raw edges (2, E) as the model was trained on them: turned round, loops and reverse edges; each once.

    By the names of what the module takes; with weights (E,) of the raw ones, of which those of equal edges are summed,
    and features (E, D), of which the mean is taken.
    """
    how, ends = read_card()["preparation"], np.asarray(raw).astype(np.int64)
    if ends.size and (ends.min() < 0 or ends.max() >= nodes):
        raise SystemExit(f"an edge's end is {ends.min()} or {ends.max()}, out of range for {nodes} nodes")
    ends = ends[::-1] if how["reverse"] else ends
    given = ends[1] * nodes + ends[0]
    if how["self_loops"] != "keep":
        ends = ends[:, ends[0] != ends[1]]
    if how["undirected"]:
        ends = np.hstack([ends, ends[::-1]])
    if how["self_loops"] == "add":
        ends = np.hstack([ends, np.tile(np.arange(nodes), (2, 1))])
    keys = np.unique(ends[1] * nodes + ends[0])
    rows, columns = np.divmod(keys, nodes)
    values = torch.ones(len(keys)) if weight is None else merge_weights(keys, given, weight, nodes)
    features = {} if attr is None else {"edge_attr": merge_features(keys, given, attr, nodes)}
    if read_card()["model"]["takes"] == "sparse":
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=nodes))])
        parts = torch.from_numpy(starts), torch.from_numpy(columns), values
        with warnings.catch_warnings(action="ignore"):  # torch says that this layout is new
            return {"edge_index": torch.sparse_csr_tensor(*parts, (nodes, nodes), check_invariants=True)}
    edges = {"edge_index": torch.from_numpy(np.stack([columns, rows]))} | features
    return edges if weight is None else edges | {"edge_weight": values}


def merge_weights(keys: Any, given: Any, raw: Any, nodes: int) -> Tensor:
    """Weights of edges by their rising keys: a sum of raw ones; without any a reverse edge's, of a self-loop 1."""
    weight = np.asarray(raw, dtype=np.float64)
    if weight.shape != given.shape or not ((weight >= 0) & np.isfinite(weight)).all():
        raise SystemExit(f"edge_weight has shape {weight.shape}: give a finite number from 0 on of each edge")
    merged, counts = sum_equal(keys, given, weight[:, None], nodes)
    merged = np.where(counts == 0, 1.0, merged[:, 0])
    large = np.bincount(keys // nodes, weights=merged) >= np.finfo(np.float32).max
    if large.any():
        raise SystemExit(f"edge_weight: those of edges to node {large.argmax()} add up to more than float32 holds")
    return torch.from_numpy(merged.astype(np.float32))


def merge_features(keys: Any, given: Any, raw: Any, nodes: int) -> Tensor:
    """Features of edges likewise: a mean of raw ones, of a self-loop without any that of the node's other edges."""
    attr = np.asarray(raw, dtype=np.float64)
    attr = attr[:, None] if attr.ndim == 1 else attr
    if attr.shape != (len(given), read_card()["model"]["edge_features"]) or not np.isfinite(attr).all():
        raise SystemExit(f"edge_attr has shape {attr.shape}: give as many finite numbers an edge as the model takes")
    merged, counts = sum_equal(keys, given, attr, nodes)
    merged /= np.maximum(counts, 1)[:, None]
    rows, bare = keys // nodes, counts == 0
    others = np.bincount(rows[~bare], minlength=nodes)[:, None]
    total = np.stack([np.bincount(rows, weights=column, minlength=nodes) for column in merged.T], 1)
    merged[bare] = (total / np.maximum(others, 1))[rows[bare]]
    return torch.from_numpy(merged.astype(np.float32))


def sum_equal(keys: Any, given: Any, values: Any, nodes: int) -> tuple[Any, Any]:
    """Sums of raw edges' values (E, D) by their rising keys, and how many these are; without any a reverse edge's."""
    there = np.isin(given, keys)
    place = np.searchsorted(keys, given[there])
    sums = np.stack([np.bincount(place, weights=column, minlength=len(keys)) for column in values[there].T], 1)
    counts = np.bincount(place, minlength=len(keys))
    rows, columns = np.divmod(keys, nodes)
    origin = np.where(counts == 0, np.searchsorted(keys, columns * nodes + rows), np.arange(len(keys)))
    return sums[origin], counts[origin]


def list_taken() -> list[str]:
    """Values of edges that the model takes, by their names."""
    keys = {"edge_weight": "weighted", "edge_attr": "edge_features"}
    return [name for name, key in keys.items() if read_card()["model"].get(key)]


@torch.no_grad()
def predict(x: Any, edge_index: Any, edge_weight: Any = None, edge_attr: Any = None) -> Tensor:
    """Scores (V, C) of every node of a graph as its source has it; of a regression numbers in the source's units."""
    features, task = prepare_features(x), read_card()["task"]
    for name, values in (("edge_weight", edge_weight), ("edge_attr", edge_attr)):
        if (values is not None) != (name in list_taken()):
            raise SystemExit(f"the model takes {'no' if values is not None else 'an'} {name}, unlike this graph")
    edges = prepare_edges(edge_index, len(features), edge_weight, edge_attr)
    scores: Tensor = load_model()(features, edges.pop("edge_index"), **edges)
    if task["target_mean"]:
        spread, mean = (torch.tensor(task[name], dtype=torch.float64) for name in ("target_spread", "target_mean"))
        scores = scores.double() * spread + mean
    return scores


def load_graph(path: Path) -> dict[str, Any]:
    """What x, edge_index and other values of a graph's file are, by their names, as arrays."""
    try:
        found = load_npz(path) if path.suffix == ".npz" else load_saved(path)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{path} is no graph that can be read ({type(error).__name__}); {GIVE}") from None
    names = ["x", "edge_index", *list_taken()]
    if missing := [name for name in names[:2] if found.get(name) is None]:
        raise SystemExit(f"{path} has no {' and no '.join(missing)}; it has: {', '.join(sorted(map(str, found)))}")
    return {name: to_array(found[name]) for name in names if found.get(name) is not None}


def load_npz(path: Path) -> dict[str, Any]:
    """The arrays of a file."""
    with np.load(path) as found:
        return dict(found)


def load_saved(path: Path) -> dict[str, Any]:
    """The tensors of a Data, a dict, or a dataset's only graph; nothing else is unpickled."""
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    with torch.serialization.safe_globals([Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]):
        found = torch.load(path, weights_only=True, map_location="cpu")
    if isinstance(found, tuple) and len(found) > 1 and found[1] is None:
        found = found[0]
    if isinstance(found, Data):
        found = found.to_dict()
    if not isinstance(found, dict):
        raise SystemExit(f"{path} holds a {type(found).__name__}; {GIVE}")
    return found


def to_array(value: Any) -> Any:
    """A tensor, dense or sparse, as an array, of a type that NumPy has."""
    if not isinstance(value, Tensor):
        return np.asarray(value)
    dense = value.detach().to_dense()
    return (dense.double() if dense.is_floating_point() else dense).numpy()


def main() -> None:
    """From one file to the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, help="a file of .npz or .pt with x, edge_index, edge_weight, edge_attr")
    parser.add_argument("scores", type=Path, help="where the scores go, an npy file")
    words = parser.parse_args()
    np.save(words.scores, predict(**load_graph(words.graph)).numpy())


if __name__ == "__main__":
    main()
