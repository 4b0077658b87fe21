"""Model states in files that other programs wrote, of .pt, .pth, .ckpt and .safetensors; and in this package's own.

Of a pickle nothing is made but tensors and plain containers: every other name becomes a stand-in that does nothing, and
a name that could run something makes the file refused.
"""

from __future__ import annotations

import pickle
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # of Python 2, whose names are in files of today too
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor

from gnnsoup_hpc.errors import UNREADABLE, FileError
from gnnsoup_hpc.io import export
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.pickled import InertUnpickler, StandIn
from gnnsoup_hpc.io.records import Ingredient
from gnnsoup_hpc.types import State
from gnnsoup_hpc.utils.hashing import file_sha256

PICKLED, SAFE, OWN = (".pt", ".pth", ".ckpt", ".bin"), ".safetensors", ".h5"
SAVE = "torch.save(model.state_dict(), PATH)"
DEPTH = 3  # of mappings within mappings, where a state is looked for
# Modules with all that is below them, and functions, whose names alone make a file refused.
_RUNNERS = frozenset(
    {
        *("os", "posix", "nt", "subprocess", "sys", "importlib", "runpy", "shutil", "pty", "ctypes", "socket", "code"),
        *("multiprocessing", "_posixsubprocess", "pickle", "_pickle", "marshal", "webbrowser", "pdb", "timeit", "pip"),
    }
)
_BUILTINS = frozenset(
    {
        *("exec", "eval", "compile", "open", "setattr", "delattr", "__import__", "input", "breakpoint"),
        *("globals", "locals", "vars"),
    }
)
_FUNCTIONS = frozenset(
    {"io.open", "_io.open", "torch.load", "torch.serialization.load", "torch.storage._load_from_bytes", "numpy.load"}
)
_REBUILT = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
_MADE: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    **{f"torch._utils.{name}": getattr(torch._utils, name) for name in _REBUILT},
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
}
_CASTS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # of weights, to float32


class _RefusedError(pickle.UnpicklingError):
    """A name that could run something."""


class _Attribute(StandIn):
    """In place of getattr, by which torch.relu and its like are pickled; of anything else it is refused."""

    def __new__(cls, *given: Any, **named: Any) -> Self:
        if getattr(given[0] if given else None, "name", "") != "torch._C._VariableFunctionsClass":
            raise _RefusedError("builtins.getattr")
        return super().__new__(cls, *given, **named)


class _TensorUnpickler(InertUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        whole, (root, *_) = f"{module}.{name}", module.split(".")
        *owners, _ = name.split(".")
        of_builtins = {"builtins", "__builtin__"} & {root, *owners} and _BUILTINS & {*name.split(".")}
        if _RUNNERS & {root, *owners} or of_builtins or whole in _FUNCTIONS:
            raise _RefusedError(whole)
        if whole == "builtins.getattr":
            return _Attribute
        return _MADE[whole] if whole in _MADE else super().find_class(module, name)


# What torch asks of a module that unpickles.
_PICKLE: Any = SimpleNamespace(
    __name__="tensors alone",
    Unpickler=_TensorUnpickler,
    load=lambda file, **options: _TensorUnpickler(file, **options).load(),
)


@dataclass(frozen=True)
class ForeignState:
    """Tensors by name as a file has them. sha256: of the file; key: where in it they were, dotted, empty for its root.

    made: of a file of this package, the ingredient and its origin.
    """

    path: Path
    sha256: str
    key: str
    tensors: Mapping[str, Any]
    made: tuple[Ingredient, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Difference:
    """Where an entry of a file is not what a model wants."""

    file: str
    entry: str
    has: str
    wants: str


@dataclass(frozen=True)
class FittedState:
    """A state in float32 with the names of a model. prefix: taken off the names; types: what was cast to float32."""

    state: State
    prefix: str
    types: tuple[str, ...]
    differences: tuple[Difference, ...]


def read(path: Path, key: str = "") -> ForeignState:
    """The state in a file; `key` says which, where it holds several, dotted where they lie in one another.

    Raises: FileError for a file that cannot be read, that asks for what could run something, or holds no one state;
    RunError where a library is missing that reads it.
    """
    suffix = path.suffix.lower()
    if suffix == OWN:
        if key:
            raise FileError(f"{path}: --key {key} names an entry of a checkpoint, and this is a file of this package")
        made = ingredient_store.read(path)
        return ForeignState(path, file_sha256(path), "", made.state, (made, ingredient_store.origin(path)))
    if suffix not in (*PICKLED, SAFE):
        raise FileError(f"{path}: checkpoints are files of {', '.join((*PICKLED, SAFE))}, or ingredients of a run")
    content = _read_safetensors(path) if suffix == SAFE else _read_pickle(path)
    found, tensors = _find_state(content, path, key)
    return ForeignState(path, file_sha256(path), found, tensors)


def _read_safetensors(path: Path) -> Any:
    library = export.load_safetensors()
    try:
        return library.load(path.read_bytes())
    except (*UNREADABLE, import_module("safetensors").SafetensorError) as error:
        raise FileError(f"{path}: not a readable file of safetensors ({_shorten(error)})") from None


def _read_pickle(path: Path) -> Any:
    """What a file of torch.save holds, with stand-ins for all that is no tensor and no plain container."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = {Path(name).name for name in archive.namelist()}
            if "constants.pkl" in names:
                raise FileError(f"{path} is a TorchScript archive, which is code: save its weights instead: {SAVE}")
        elif tarfile.is_tarfile(path):
            raise FileError(f"{path} is of a torch before 0.1.10: load it with one of those, and save it anew: {SAVE}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of kinds of tensors that are new or old to it
            return torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except _RefusedError as error:
        raise FileError(
            f"{path} asks for {error}, which can run any code: it is refused, and nothing of it was run; save plain"
            f" tensors: {SAVE}"
        ) from None
    except (*UNREADABLE, MemoryError) as error:
        raise FileError(f"{path}: not a readable file of torch.save, or a truncated one ({_shorten(error)})") from None


def _shorten(error: Exception) -> str:
    """What kind of error of a library it is, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


# ---- which of a file's entries is the state


def _find_state(content: Any, path: Path, key: str) -> tuple[str, Mapping[str, Any]]:
    """Key and tensors of the only state in a file, or of the one at `key`. Raises: FileError."""
    if key:
        found = _descend(content, key)
        if not _is_state(found):
            raise FileError(f"{path}: --key {key}: {_describe(found)}; {_list_keys(content)}")
        return key, found
    for level in _walk(content):
        states = {name: value for name, value in level.items() if _is_state(value)}
        if len(states) == 1:
            return next(iter(states.items()))
        if states:
            raise FileError(f"{path} holds several states: choose one with --key {' or --key '.join(states)}")
    if isinstance(content, StandIn):
        raise FileError(
            f"{path} holds a whole object of the class {type(content).name}, which is not made, for a pickle can run"
            f" any code: save its state instead: {SAVE}"
        )
    raise FileError(f"{path} holds no mapping of names to tensors: {_list_keys(content)}; save one: {SAVE}")


def _walk(content: Any) -> Iterator[Mapping[str, Any]]:
    """What lies at each depth, by its dotted key: the root, what it holds, and so on."""
    level = {"": content}
    for _ in range(DEPTH):
        yield level
        inner = ((key, value) for key, value in level.items() if _is_mapping(value))
        level = {f"{key}.{name}".lstrip("."): item for key, value in inner for name, item in value.items()}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_state(value: Any) -> bool:
    """Whether it is a mapping of names to tensors, of which a few may be in a form that is not read."""
    if not _is_mapping(value):
        return False
    tensors, others = (sum(isinstance(item, kind) for item in value.values()) for kind in (Tensor, StandIn))
    return tensors > others and tensors + others == len(value)


def _descend(content: Any, key: str) -> Any:
    """What lies at a dotted key, of whose names some may have dots themselves; None where nothing does."""
    if not isinstance(content, Mapping):
        return None
    if key in content:
        return content[key]
    places = (place for place, letter in enumerate(key) if letter == ".")
    found = (_descend(content.get(key[:place]), key[place + 1 :]) for place in places)
    return next((value for value in found if value is not None), None)


def _list_keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it is {_describe(content)}"
    shown = [f"{name} ({_describe(value)})" for name, value in list(content.items())[:8]]
    return f"it has {', '.join(shown) or 'nothing'}{' and more' if len(content) > 8 else ''}"


def _describe(value: Any) -> str:
    if value is None:
        return "nothing is there"
    if _is_state(value):
        return "state"
    return str(value.name if isinstance(value, StandIn) else type(value).__name__)


# ---- whether it is one of the model's


def fit(
    found: ForeignState,
    shapes: Mapping[str, tuple[int, ...]],
    integers: Container[str] = (),
    ties: Mapping[str, str] | None = None,
) -> FittedState:
    """The state of a model with those names and shapes, and where the file differs from them.

    integers: names of entries that are int64; ties: other names of entries, by which a file may have them too. Where
    there are differences, the state holds what agrees.
    """
    prefix, ties = _find_prefix(found.tensors, shapes), ties or {}
    named = {name.removeprefix(prefix): tensor for name, tensor in found.tensors.items()}
    file, state, differences = str(found.path), {}, list[Difference]()
    for name, shape in shapes.items():
        if name not in named:
            kind = "int64" if name in integers else "float32"
            differences.append(Difference(file, name, "nothing", f"{kind} {_show_shape(shape)}"))
            continue
        state[name], wrong = (_cast_count if name in integers else _cast)(named[name], shape)
        if wrong:
            differences.append(Difference(file, name, *wrong))
    for name in (name for name in named if name not in shapes):
        if name in ties:
            if not _are_equal(named[name], named.get(ties[name])):
                differences.append(Difference(file, name, "other numbers", f"those of {ties[name]}, its other name"))
            continue
        differences.append(Difference(file, name, _show_entry(named[name]), "nothing"))
    types = {str(named[name].dtype).removeprefix("torch.") for name in state if not differences} - {"float32", "int64"}
    return FittedState(state, prefix, tuple(sorted(types)), tuple(differences))


def _find_prefix(names: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What all names begin with up to a dot, as "model.", and names of the model do not; empty where there is none."""
    words = [name.split(".")[:-1] for name in names]
    shared = 0
    while all(len(each) > shared and each[shared] == words[0][shared] for each in words):
        shared += 1
    prefixes = ["".join(f"{word}." for word in words[0][:count]) for count in range(shared + 1)]
    return max(prefixes, key=lambda prefix: sum(name.removeprefix(prefix) in wanted for name in names))


def _cast(entry: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[str, str] | None]:
    """An entry in float32, and what it has and should have where it is not the model's."""
    if not isinstance(entry, Tensor) or entry.dtype not in _CASTS or tuple(entry.shape) != shape:
        return entry, (_show_entry(entry), f"float32 {_show_shape(shape)}")
    cast = entry.detach().to(torch.float32).contiguous()
    if bad := int((~torch.isfinite(cast)).sum()):
        return cast, (f"{bad} of {cast.numel()} not finite", "finite numbers")
    return cast, None


def _cast_count(entry: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[str, str] | None]:
    """The same of whole numbers."""
    if not isinstance(entry, Tensor) or entry.dtype.is_floating_point or entry.is_complex() or entry.shape != shape:
        return entry, (_show_entry(entry), f"int64 {_show_shape(shape)}")
    return entry.detach().to(torch.int64).contiguous(), None


def _are_equal(entry: Any, other: Any) -> bool:
    return isinstance(entry, Tensor) and isinstance(other, Tensor) and torch.equal(entry, other)


def _show_shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _show_entry(entry: Any) -> str:
    if not isinstance(entry, Tensor):
        return _describe(entry)
    return f"{str(entry.dtype).removeprefix('torch.')} {_show_shape(tuple(entry.shape))}"
