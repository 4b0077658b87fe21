"""Torch modules by the names that a job gives them: PyG's models, and what a function of the user's makes."""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.models.kinds import PYG

Factory = Callable[..., nn.Module]

_NORMS: Mapping[str, dict[str, Any]] = {
    "none": {},
    "layer": {"norm": "layer_norm", "norm_kwargs": {"mode": "node"}},
    "batch": {"norm": "batch_norm"},
    "graph": {"norm": "graph_norm"},
}
_NOT_THEIRS = ("torch", "torch_geometric", "torch_sparse", "torch_scatter")  # packages whose code no hash is taken of


def find_factory(text: str, folder: str) -> Factory:
    """The function, or class, that "package.module:name" names, from a folder or else from where Python looks.

    Raises: JobError, in one line, where it cannot be imported or is not there.
    """
    module, _, name = text.partition(":")
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)
    where = f"model.factory = {text!r}"
    try:
        found: Any = import_module(module)
    except Exception as error:  # whatever the user's code raises while it is imported
        raise JobError(f"{where} cannot be imported: {describe_error(error)}; looked for in {folder} first") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise JobError(f"{where}: {getattr(found, '__file__', module)} has no {part!r}")
        found = getattr(found, part)
    if not callable(found):
        raise JobError(f"{where} is a {type(found).__name__}: name a function, or a class, that makes a module")
    factory: Factory = found
    return factory


def find_pyg_class(kind: str) -> Factory:
    """PyG's class of models of that kind."""
    from torch_geometric.nn import models

    found: Factory = getattr(models, PYG[kind])
    return found


def list_pyg_arguments(kind: str, layers: int, hidden: int, heads: int, norm: str) -> dict[str, Any]:
    """What PyG's class of that kind is called with."""
    attention: dict[str, Any] = {"heads": heads} if PYG[kind] == "GAT" else {}
    attention |= {"v2": True} if kind == "gatv2" else {}
    sizes = {"hidden_channels": hidden, "num_layers": layers}
    scalers: dict[str, Any] = {}
    if kind == "pna":  # as in Corso et al., Principal Neighbourhood Aggregation, NeurIPS 2020, arXiv 2004.05718
        scalers["aggregators"] = ["mean", "min", "max", "std"]
        scalers["scalers"] = ["identity", "amplification", "attenuation"]
    return sizes | attention | scalers | _NORMS[norm]


def list_taken(factory: Factory, known: Mapping[str, Any]) -> dict[str, Any]:
    """Of what is known of a graph, by the names that a factory takes."""
    takes = inspect.signature(factory).parameters.values()
    names = {parameter.name for parameter in takes}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes):
        names |= {"in_channels", "out_channels", "edge_dim"}
    return {name: value for name, value in known.items() if name in names}


def make_module(factory: Factory, arguments: Mapping[str, Any], where: str) -> nn.Module:
    """What a factory makes of arguments. Raises: JobError, in one line, where it fails or makes something else."""
    try:
        made = factory(**arguments)
    except Exception as error:  # whatever the user's code raises
        given = ", ".join(f"{name} = {value!r}" for name, value in arguments.items())
        advice = "; arguments of yours stand in model.arguments" if isinstance(error, TypeError) else ""
        raise JobError(
            f"{where} makes no module of {given or 'no arguments'}: {describe_error(error)}{advice}"
        ) from error
    if not isinstance(made, nn.Module):
        raise JobError(f"{where} makes a {type(made).__name__}, where a torch.nn.Module is wanted")
    return made


def takes_values(module: nn.Module, name: str, sparse: bool) -> bool:
    """Whether a module makes use of `edge_weight` or `edge_attr`: PyG's classes say so; others take that name.

    sparse: it is given a matrix, whose values are the weights.
    """
    known = getattr(module, f"supports_{name}", None)
    if isinstance(known, bool):
        return known
    if sparse:
        return name == "edge_weight"
    takes = inspect.signature(module.forward).parameters.values()
    return any(each.name == name or each.kind is inspect.Parameter.VAR_KEYWORD for each in takes)


def lacks_edge_dim(module: nn.Module) -> bool:
    """Whether it is one of PyG's models whose layers could take features of edges, and were made to take none."""
    takes = getattr(module, "supports_edge_attr", None) is True
    return takes and not any(getattr(part, "edge_dim", None) for part in module.modules())


def is_global_norm(part: nn.Module) -> bool:
    """Whether a part of a module is a norm of PyG's that looks at all nodes of what it is given."""
    from torch_geometric.nn import norm

    local = isinstance(part, norm.BatchNorm | norm.MessageNorm) or getattr(part, "mode", "") == "node"
    return type(part).__module__.startswith(norm.__name__) and not local


def describe_error(error: Exception) -> str:
    """An error of somebody else's code in one line: what, and the last line of theirs that it came from.

    Of an error without words, as of a bare `assert`, that is the line that raised it, with what stands there.
    """
    frames = traceback.extract_tb(error.__traceback__)
    files = [(Path(frame.filename), frame.lineno) for frame in frames]
    known = {Path(__file__).parent.parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))}
    theirs = [(path, line) for path, line in files if path.is_file() and not known & {*path.parents}]
    first = (str(error).strip().splitlines() or [""])[0]
    if not first and frames:
        first, theirs = frames[-1].line or "", files[-1:]
    place = f" ({theirs[-1][0]}, line {theirs[-1][1]})" if theirs else ""
    return f"{type(error).__name__}: {first}{place}"


def hash_source(factory: Factory, module: nn.Module) -> str:
    """Hash of the files that a factory, and the classes of a module and of its parts, are written in.

    Without those of PyTorch and PyG; what these files import has no part in it.
    """
    kinds: list[Any] = [factory, *{type(part) for part in module.modules()}]
    files = set()
    for kind in kinds:
        if kind.__module__.partition(".")[0] not in _NOT_THEIRS:
            path = inspect.getsourcefile(inspect.unwrap(kind))
            if path is not None:
                files.add(Path(path))
    contents = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()
