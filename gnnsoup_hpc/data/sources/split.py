"""Which node trains, validates, tests: splits found among a source's named arrays, and the one that a job takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources.raw import (
    RawGraph,
    SourceSplit,
    cut_split,
    find_labelled,
    list_few,
    show_values,
    simplify,
)
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph.identity import resolve_split
from gnnsoup_hpc.types import ByteArray, IntArray, Role, Targets

_ROLES = {
    Role.TRAIN: r"train(?:ing)?",
    Role.VALIDATION: r"(?:val(?:id(?:ation)?)?|dev)",
    Role.TEST: r"test(?:ing)?",
}
_FORM = r"(?:masks?|idxs?|index(?:es)?|indices|n?ids?|nodes?|sets?|splits?)"  # train_idx, idx_train, id_train_mask
_NAMES = {role: re.compile(f"{_FORM}*{word}{_FORM}*") for role, word in _ROLES.items()}
_MENTION = re.compile(
    rf"(?:train.*|val|valid.*|tests?|testing|eval|evaluation|holdout)|.*(?:{'|'.join(_ROLES.values())}){_FORM}+"
)
_WHOLE = re.compile(r"(?:node|idx|index|ids?|dict)*(?:splits?|folds?|roles?)(?:idx|index|ids?|dict)*")
_SEVERAL = (Mapping, list, tuple, sp.sparray, sp.spmatrix)
_WORKS = "graph.split = 'random' takes none of the source's own"


def read(values: Mapping[str, Any], nodes: int, where: str) -> tuple[SourceSplit | None, set[str]]:
    """The split among named arrays, if there is one, and the names that it was read from.

    A name consists of a role (train, val or valid, test) and words of form (mask, idx, index, ids, …) in any order;
    values decide whether it is masks or ids. `split_idx` is a dict of them, or a list of such dicts, one a column.
    Raises: GraphError for arrays that are about a split and cannot be read as one, naming them.
    """
    found: dict[Role, dict[str, list[IntArray]]] = {}
    kinds, used = set(), set()
    for name, value in values.items():
        for role, label, kind, part in _read_parts(name, value, nodes, where):
            kinds |= set() if role in found else {kind}
            found.setdefault(role, {})[label] = part
            used.add(name)
    left = {name: value for name, value in values.items() if name not in used}
    _refuse_leftovers(left, bool(found), nodes, where)
    if not found:
        return None, used
    several = {label: len(part) for parts in found.values() for label, part in parts.items() if len(part) > 1}
    if len(set(several.values())) > 1:
        listed = ", ".join(f"{label} {count}" for label, count in several.items())
        raise GraphError(f"{where}: the split's arrays differ in their number of columns: {listed}; {_WORKS}")
    chosen = {role: _agree(parts, where) for role, parts in found.items()}
    return SourceSplit(chosen, " and ".join(sorted(kinds, reverse=True))), used


def list_split_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of all that seems to be about a split, readable or not."""
    return tuple(name for name, value in values.items() if _find_role(name, value) or _mentions(name, value))


def assign_roles(raw: RawGraph, job: GraphJob) -> ByteArray:
    """Each node's role under the job's split, (V,)."""
    role = _assign(raw, _take(raw, job))
    if job.label_share < 1.0:
        training = np.flatnonzero(role == Role.TRAIN)
        kept = max(1, round(job.label_share * len(training)))
        role[np.random.default_rng(job.split_seed).permutation(training)[kept:]] = Role.NONE
    return role


def _take(raw: RawGraph, job: GraphJob) -> Mapping[Role, IntArray]:
    """Ids by role under the job's split."""
    kind = resolve_split(job, raw.splits)
    if kind == "random":
        if job.split == "auto" and job.split_index:
            raise GraphError(f"graph.split_index = {job.split_index}: {raw.where} has no split of its own")
        return _draw_random(raw.y, job).ids(0)
    split = (raw.splits or {}).get(kind)
    if split is None:
        known = ", ".join(["random", *(raw.splits or {})])
        raise GraphError(f"graph.split = {kind!r}: {raw.where} has no such split; it has: {known}")
    if job.split_index >= split.columns:
        count = f"{split.columns} split{'s' if split.columns != 1 else ''}"
        raise GraphError(f"graph.split_index = {job.split_index}: {raw.where} has {count}, counted from 0")
    return split.ids(job.split_index)


def describe_split(raw: RawGraph, job: GraphJob) -> str:
    """Which split the job takes, in words."""
    few = f", {100 * job.label_share:.4g} % of its training nodes" if job.label_share < 1.0 else ""
    kind, own = resolve_split(job, raw.splits), raw.splits or {}
    if kind != "random":
        column = f", column {job.split_index} of {own[kind].columns}, counted from 0"
        return f"{kind} {own[kind].words}".rstrip() + column * (own[kind].columns > 1) + few
    shares = (job.train_share, job.validation_share, 1.0 - job.train_share - job.validation_share)
    words = f"random {'/'.join(f'{100 * share:.4g}' for share in shares)}, seed {job.split_seed}{few}"
    names = ", ".join(raw.split_names or tuple(f"{name} split" for name in own))
    if not names:
        return f"{words}: the source has none"
    verb = "are" if len(raw.split_names) > 1 else "is"
    return f"{words}, as the job asks; the source's own {names} {verb} not used"


def _find_role(name: str, value: Any = None) -> Role | None:
    """The role that a name stands for, if its value is no text."""
    if isinstance(value, str | bytes):
        return None
    return next((role for role, pattern in _NAMES.items() if pattern.fullmatch(simplify(name))), None)


def _mentions(name: str, value: Any) -> bool:
    """Whether this is an array, or several, that is no split by its name but seems to be about one."""
    if not (value.ndim if isinstance(value, np.ndarray) else isinstance(value, _SEVERAL)):
        return False
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    if any(_MENTION.fullmatch(word.lower()) for word in words) or _WHOLE.fullmatch(simplify(name)):
        return True
    return any(_find_role(str(key)) for group in _list_dicts(value) for key in group)


def _list_dicts(value: Any) -> list[Mapping[Any, Any]]:
    """The value, a dict, or the dicts of a list."""
    if isinstance(value, Mapping):
        return [value]
    listed = isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(item, Mapping) for item in value)
    return list(value) if listed else []


def _read_parts(name: str, value: Any, nodes: int, where: str) -> Iterator[tuple[Role, str, str, list[IntArray]]]:
    """(role, what it is called, "masks" or "ids", ids by column) of each role that a named value says something of."""
    role, groups = _find_role(name, value), _list_dicts(value)
    if groups and not role:
        by_key = [{str(key): item for key, item in group.items() if item is not None} for group in groups]
        if not any(_find_role(key) for group in by_key for key in group):
            return
        if any(group.keys() != by_key[0].keys() for group in by_key):
            raise GraphError(f"{where}: the dicts of {name} have not all the same keys; {_WORKS}")
        for key in by_key[0]:
            place, label = _find_role(key), f"{name}[{key!r}]"
            if not place:
                raise GraphError(f"{where}: {label} is no role; expected train, valid and test; {_WORKS}")
            items = [group[key] for group in by_key]
            yield place, label, *_read_part(label, items[0] if len(items) == 1 else items, nodes, where)
    elif role:
        yield role, name, *_read_part(name, value, nodes, where)


def _read_part(name: str, value: Any, nodes: int, where: str) -> tuple[str, list[IntArray]]:
    """What a role is given by, "masks" or "ids", and its ids by column; a list has one for each column."""
    if isinstance(value, list | tuple) and value:
        parts = [_read_part(f"{name}[{number}]", item, nodes, where) for number, item in enumerate(value)]
        kind = parts[0][0]
        if any(other != kind or (kind == "masks" and len(columns) > 1) for other, columns in parts):
            raise GraphError(f"{where}: {name} mixes masks and ids, or has columns of columns; {_WORKS}")
        return kind, [ids for _, columns in parts for ids in columns]
    if not isinstance(value, np.ndarray):
        raise GraphError(f"{where}: {name} is {show_values(value)}; expected a mask or node ids; {_WORKS}")
    masked, fits = "mask" in name.lower(), value.ndim in (1, 2) and len(value) == nodes
    if value.dtype.kind in "biuf" and fits and value.size and bool(((value == 0) | (value == 1)).all()):
        return "masks", [np.flatnonzero(column) for column in np.atleast_2d(value.T)]
    if not masked and value.ndim == 1 and not value.size:
        return "ids", [np.empty(0, dtype=np.int64)]
    if value.dtype.kind == "f" and bool((value == np.floor(value)).all()) and np.abs(value).max(initial=0) < 2.0**53:
        value = value.astype(np.int64)  # as float labels are taken
    if not masked and value.dtype.kind in "iu" and (value.ndim == 1 or (value.ndim == 2 and value.shape[1] == 1)):
        flat = value.reshape(-1)
        if flat.dtype.kind == "u" and flat.max() >= 2**63:
            raise GraphError(f"{where}: {name} has the id {int(flat.max())}, out of range [0, {nodes})")
        return "ids", [flat.astype(np.int64)]
    ids = f" (node ids are named {name.lower().replace('mask', 'idx')})" if masked else ", or a row of node ids"
    expected = f"booleans, or 0 and 1, of shape ({nodes},) or ({nodes}, n){ids}"
    raise GraphError(f"{where}: {name} holds {show_values(value)}; expected {expected}; {_WORKS}")


def _refuse_leftovers(left: Mapping[str, Any], found: bool, nodes: int, where: str) -> None:
    """Raise for arrays that seem to be about a split and were not read."""
    about = {name: value for name, value in left.items() if _mentions(name, value)}
    unknown = [name for name in about if not _WHOLE.fullmatch(simplify(name))]
    if unknown:
        raise GraphError(
            f"{where}: {list_few(unknown)}: about a split by name, and not known: leave out what is none, and name"
            f" what is one train_mask, val_mask, test_mask; {_WORKS}"
        )
    for name, value in about.items():
        if not found and (not isinstance(value, np.ndarray) or len(value) == nodes):
            raise GraphError(
                f"{where}: {name} ({show_values(value)}) seems to give each node's role or fold, and is not read:"
                f" write it as train_mask, val_mask and test_mask; {_WORKS}"
            )


def _agree(parts: Mapping[str, list[IntArray]], where: str) -> list[IntArray]:
    """The first of a role's arrays, if the others say the same."""
    (first, part), *others = parts.items()
    for name, other in others:
        for column in range(max(len(part), len(other))):
            if not np.array_equal(np.unique(part[column % len(part)]), np.unique(other[column % len(other)])):
                raise GraphError(f"{where}: {first} and {name} differ, and are for one role: leave one out; {_WORKS}")
    return part


def _draw_random(y: Targets, job: GraphJob) -> SourceSplit:
    """Shares of the labelled nodes in a seeded random order."""
    labelled = np.flatnonzero(find_labelled(y))
    shuffled = np.random.default_rng(job.split_seed).permutation(labelled)
    counts = (round(share * len(labelled)) for share in (job.train_share, job.validation_share))
    return SourceSplit(cut_split(shuffled, *counts))


def _assign(raw: RawGraph, split: Mapping[Role, IntArray]) -> ByteArray:
    role = np.full(len(raw.y), Role.NONE, dtype=np.uint8)
    for name, ids in split.items():
        called = name.name.lower()
        if len(ids) and (ids.min() < 0 or ids.max() >= len(role)):
            raise GraphError(f"{raw.where}: the split's {called} ids leave the range [0, {len(role)})")
        taken = ids[role[ids] != Role.NONE]
        if len(taken):
            raise GraphError(
                f"{raw.where}: node {taken[0]} has two roles in the split, {Role(int(role[taken[0]])).name.lower()} and"
                f" {called}, and so have {len(taken) - 1} more: give each node one"
            )
        role[ids] = name
        if np.count_nonzero(role == name) < len(ids):
            found, times = np.unique(ids, return_counts=True)
            twice = int(found[times > 1][0])
            raise GraphError(f"{raw.where}: node {twice} is listed twice among the split's {called} ids")
    return role
