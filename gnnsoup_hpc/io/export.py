"""A soup for others: weights, a card that says what they are, and a script of plain PyTorch Geometric that predicts."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.model import Trained
from gnnsoup_hpc.types import State

SUFFIXES = (".pt", ".safetensors")
SCRIPT = Path(__file__).with_name("standalone.py")


def write(to: Path, trained: Trained, card: Mapping[str, Any], text: str) -> list[Path]:
    """Publish an export: weights, card, card for people, script. The files that it consists of.

    card: but for weights, model and preparation. Files of that content that are there already are left as they are, so
    the same command completes what another did not.
    Raises: RunError for a suffix that is none of these, a folder that is not there or may not be written to, a file of
    other content, or a library that is not installed.
    """
    if to.suffix not in SUFFIXES:
        raise RunError(f"{to}: an export is a file of {' or '.join(SUFFIXES)}")
    model = trained.architecture
    weights, (name, arguments) = _dump(model.complete(trained.state), to.suffix), model.describe_module()
    preparation, graph = trained.preparation, trained.graph
    whole = dict(card) | {
        "weights": {"file": to.name, "sha256": hashlib.sha256(weights).hexdigest()},
        "model": {
            "made_by": name,
            "arguments": arguments,
            "takes": model.takes,
            "features": model.features,
            **({"weighted": True} if model.weighted else {}),
            **({"edge_features": model.edge_features} if model.edge_features else {}),
        },
        "preparation": {
            "features": preparation.kind,
            "mean": preparation.mean.tolist(),
            "scale": preparation.scale.tolist(),
            "reverse": graph.reverse,
            "self_loops": graph.self_loops,
            "undirected": graph.undirected,
        },
    }
    contents = {
        to: weights,
        to.with_suffix(".json"): json.dumps(whole, indent=1).encode(),
        to.with_suffix(".md"): text.encode(),
        to.with_suffix(".py"): SCRIPT.read_bytes(),
    }
    for path in contents:
        files.check_writable(path)
    there = {path for path in contents if path.exists()}
    if other := [path for path in contents if path in there and path.read_bytes() != contents[path]]:
        raise RunError(f"{other[0]} is there already, and another: remove it, or export to another name")
    for path in [path for path in contents if path not in there]:
        files.publish_bytes(path, contents[path])
    return list(contents)


def _dump(state: State, suffix: str) -> bytes:
    """A state as bytes, which depend on nothing else."""
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    if suffix == ".safetensors":
        found: bytes = load_safetensors().save(state)
        return found
    room = io.BytesIO()  # a file's name would be among its bytes
    torch.save(state, room)
    return room.getvalue()


def load_safetensors() -> Any:
    """The package's part for torch. Raises: RunError where it is not installed."""
    try:
        return import_module("safetensors.torch")
    except ModuleNotFoundError:
        raise RunError(
            "a file of .safetensors needs the package safetensors, which is not here: pip install safetensors, or .pt"
        ) from None
