"""A soup for others: weights, a card that says what they are, and a script of plain PyTorch Geometric that predicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.model import Trained
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import State

SUFFIXES = (".pt", ".safetensors")
SCRIPT = Path(__file__).with_name("standalone.py")


def check_target(to: Path) -> list[Path]:
    """The files that an export to `to` consists of: weights, card, card for people, script.

    Raises: RunError for another suffix, a name that is taken, or a library that is not installed.
    """
    if to.suffix not in SUFFIXES:
        raise RunError(f"{to}: an export is a file of {' or '.join(SUFFIXES)}")
    if to.suffix == ".safetensors":
        _load_safetensors()
    made = [to, *(to.with_suffix(suffix) for suffix in (".json", ".md", ".py"))]
    if taken := [path for path in made if path.exists()]:
        raise RunError(f"{taken[0]} is there already: remove it, or export to another name")
    return made


def write(to: Path, trained: Trained, card: Mapping[str, Any], text: str) -> list[Path]:
    """Publish an export; the card is given what is known of the weights and of their model. The files that it made."""
    made = check_target(to)
    if not isinstance(trained.architecture, Architecture):
        raise RunError(
            f"{to}: models of kind {trained.architecture.kind!r} have no class that a plain script could make"
        )
    name, arguments = trained.architecture.describe_module()
    with files.publish(to) as private:
        _write_weights(private, trained.state, to.suffix)
    digest = hashlib.sha256(to.read_bytes()).hexdigest()
    preparation, graph = trained.preparation, trained.graph
    whole = dict(card) | {
        "weights": {"file": to.name, "sha256": digest},
        "model": {"class": f"torch_geometric.nn.{name}", "arguments": arguments},
        "preparation": {
            "features": preparation.kind,
            "mean": preparation.mean.tolist(),
            "scale": preparation.scale.tolist(),
            "reverse": graph.reverse,
            "self_loops": graph.self_loops,
            "undirected": graph.undirected,
        },
    }
    contents = json.dumps(whole, indent=1), text, SCRIPT.read_text(encoding="utf-8")
    for path, content in zip(made[1:], contents, strict=True):
        with files.publish(path) as private:
            private.write_text(content, encoding="utf-8")
    return made


def _write_weights(path: Path, state: State, suffix: str) -> None:
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    if suffix == ".safetensors":
        _load_safetensors().save_file(state, path)
    else:
        torch.save(state, path)


def _load_safetensors() -> Any:
    try:
        return import_module("safetensors.torch")
    except ModuleNotFoundError:
        raise RunError(
            "a file of .safetensors needs the package safetensors, which is not here: pip install safetensors, or .pt"
        ) from None
