"""Any torch module as a function of its state: PyG's own models, and those that a function of the user's makes.

A state has the module's parameters and buffers, under the names of its `state_dict`, each tied one once. The module
computes in float32, from features x (V, F) and either edges (2, E), rows source and destination, or a sparse CSR
matrix (V, V), a row a destination. Weights of edges, where they are used, are its argument `edge_weight`, (E,), or the
values of that matrix, which are else 1; features of edges are its argument `edge_attr`, (E, D). What is drawn at
random, for dropout, it draws from torch's own generators, which are seeded for each step and put back afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.models import factory as factories
from gnnsoup_hpc.models.base import Dropout, Symmetries
from gnnsoup_hpc.models.factory import Factory
from gnnsoup_hpc.models.kinds import MODULE, PYG
from gnnsoup_hpc.models.statistics import call_with, find_ties, fitting, list_statistics, recompute_statistics
from gnnsoup_hpc.types import Grouping, Mode, State
from gnnsoup_hpc.utils.hashing import canonical, fingerprint

_NOT_RECORDED = ("folder", "degrees", "revision", "reach", "groups_by")
_IF_USED = ("weighted", "edge_features")  # which older files lack
_PROBE = 8  # nodes of the ring that a module is tried on before anything else


@dataclass(frozen=True)
class ModuleModel:
    """A torch module that ingredients share; a `Model`.

    kind: "module", or of one of PyG's classes, which takes `layers`, `hidden`, `heads` and `norm`. features: F;
    classes: C. arguments: of the factory, or besides of that class, as JSON. revision: name of the code, in place of
    its hash. reach: message passing layers of a module, 0 where they are not known. groups_by: beginnings of names that
    share an alpha vector, in place of the module's children. weighted: whether it takes weights of edges;
    edge_features: D, how many features of an edge it takes, which factories know as `edge_dim`. folder: where
    the factory is imported from first, which says nothing of the model. degrees: in-degrees of its graph, counted, for
    factories that take them as `deg`.
    """

    kind: str
    features: int
    classes: int
    layers: int = 0
    hidden: int = 0
    heads: int = 1
    norm: str = "none"
    factory: str = ""
    arguments: str = "{}"
    revision: str = ""
    reach: int = 0
    takes: str = "edge_index"
    groups_by: tuple[str, ...] = ()
    weighted: bool = False
    edge_features: int = 0
    folder: str = field(default="", compare=False)
    degrees: tuple[int, ...] = field(default=(0, 1), compare=False)

    # ---- what it is

    @property
    def outputs(self) -> int:
        """C."""
        return self.classes

    @property
    def hops(self) -> int | None:
        """One a layer of PyG's classes; what the job says of others."""
        return (self.reach if self.kind == MODULE else self.layers) or None

    @property
    def symmetries(self) -> Symmetries | None:
        """Nothing is known."""
        return None

    @cached_property
    def template(self) -> nn.Module:
        """The module, whose own state is of no account. Raises: JobError where it cannot be made, or used."""
        with torch.random.fork_rng(devices=[]):
            module = self._make()
            self._try(module)
        return module

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every entry of a state, in the order of `state_dict`."""
        return {name: tuple(tensor.shape) for name, tensor in self._entries.items()}

    @property
    def integers(self) -> frozenset[str]:
        """Entries that are counted in whole numbers, which no average has."""
        return frozenset(name for name, tensor in self._entries.items() if not tensor.is_floating_point())

    @cached_property
    def ties(self) -> dict[str, str]:
        """Other names that the module has for entries of a state, with their names in it."""
        return find_ties(self.template)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Entries that are trained."""
        return frozenset(name for name, tensor in self.template.named_parameters() if tensor.requires_grad)

    @cached_property
    def statistics(self) -> frozenset[str]:
        """Entries that are running statistics of batch norm."""
        return frozenset(name for name in list_statistics(self.template) if name not in self.ties)

    @property
    def _entries(self) -> State:
        return _read_state(self.template)

    def groups(self, by: Grouping) -> dict[str, tuple[str, ...]]:
        """Names of the entries that share one alpha vector: by the module's children, or the job's prefixes.

        A list of children is one child each, and norms of PyG's classes go with their layer. Raises: JobError for a
        prefix that nothing begins with.
        """
        names = tuple(name for name in self.shapes() if name not in self.integers)
        if by == "model":
            return {"model": names}
        if by == "tensor":
            return {name: (name,) for name in names}
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(self._find_group(name), []).append(name)
        if unused := [prefix for prefix in self.groups_by if prefix not in found]:
            there = ", ".join(names)
            raise JobError(f"model.groups: no entry of a state begins with {unused[0]!r}; there are: {there}")
        return {group: tuple(members) for group, members in found.items()}

    def _find_group(self, name: str) -> str:
        for prefix in sorted(self.groups_by, key=len, reverse=True):
            if name == prefix or name.startswith(f"{prefix}."):
                return prefix
        first, _, rest = name.partition(".")
        second = rest.partition(".")[0]
        if self.groups_by or not second.isdecimal():
            return first
        return f"layer {second}" if self.kind in PYG and first in ("convs", "norms") else f"{first}.{second}"

    def record(self) -> dict[str, Any]:
        """What a state is a function of, and what makes the module: its fields that outputs depend on.

        Of a factory's code the hash, or the name that the job gives it.
        """
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}
        values = {name: value for name, value in values.items() if value or name not in _IF_USED}
        values["arguments"] = json.loads(self.arguments)
        if self.kind == MODULE:
            values["code"] = self.code
        entries = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in self._entries.items()}
        return values | {"entries_sha256": fingerprint(entries)}

    @cached_property
    def code(self) -> str:
        """Name of the code that it is made by: `revision`, or else the beginning of its hash."""
        return self.revision or factories.hash_source(self._factory, self.template)[:16]

    # ---- what it computes

    def init_state(self, seed: int) -> State:
        """As the module's own code draws it from torch's generator: a pure function of the model and `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self._make()
            self._try(made)
            return {name: tensor.clone() for name, tensor in _read_state(made).items()}

    def forward(
        self, state: Mapping[str, Tensor], graph: Subgraph, dropout: Dropout | None = None, mode: Mode = "evaluate"
    ) -> Tensor:
        """Outputs of every node, (V, C). In mode "train" running statistics of `state` are brought up to date."""
        if mode == "fit":
            state = dict(state) | {name: state[name].detach().clone() for name in self.statistics}
        module = self._place(graph.x.device)
        with self._set_mode(module, mode, dropout):
            found: Tensor = call_with(module, state, *self._list_inputs(graph))
        return found

    def recompute(self, state: Mapping[str, Tensor], graphs: Iterator[Subgraph]) -> State:
        """The state with its running statistics recomputed over all nodes of the graphs, one after the other."""
        if not self.statistics:
            return dict(state)
        module = self._place(next(iter(state.values())).device)

        def run(each: nn.Module, graph: Subgraph) -> None:
            given, named = self._list_inputs(graph)
            each(*given, **named)

        return recompute_statistics(module, state, graphs, run)

    def find_far_reach(self) -> str:
        """Why a node's output cannot be computed from the nodes within `hops` of it, in words; "" where it can.

        Tried on a ring: nodes farther off are given other features, and the output is looked at.
        """
        if self.hops is None:
            return f"{self._where} does not say how far it reaches: give model.hops, its message passing layers"
        return self._far_reach

    @cached_property
    def _far_reach(self) -> str:
        hops, state = self.hops or 0, self.init_state(0)
        ring, nodes = _make_ring(2 * hops + 4, self.edge_features)
        x = torch.randn(nodes, self.features, generator=torch.Generator().manual_seed(0))
        other = x.clone()
        other[hops + 1 : nodes - hops] += 1.0
        with torch.no_grad():
            found, moved = (self.forward(state, Subgraph(each, ring))[0] for each in (x, other))
        if torch.equal(found, moved):
            return ""
        over_all = [
            f"{name} ({type(part).__name__})"
            for name, part in self.template.named_modules()
            if factories.is_global_norm(part)
        ]
        why = f", for {over_all[0]} normalises over all nodes" if over_all else f" (model.hops = {hops})"
        return f"{self._where} looks at nodes beyond its {hops} hops{why}"

    def to_module(self) -> nn.Module:
        """The module, as the job's arguments make it."""
        return self._make()

    def describe_module(self) -> tuple[str, dict[str, Any]]:
        """`package.module:name` of what makes the module, and all arguments, as JSON has them."""
        arguments = {name: list(value) if name == "deg" else value for name, value in self._arguments.items()}
        return self.factory or f"torch_geometric.nn:{PYG[self.kind]}", arguments

    def complete(self, state: State) -> State:
        """The state with tied entries by all their names, as `load_state_dict` wants it."""
        return state | {name: state[other].clone() for name, other in self.ties.items()}

    # ---- how

    @cached_property
    def _factory(self) -> Factory:
        return (
            factories.find_factory(self.factory, self.folder)
            if self.kind == MODULE
            else factories.find_pyg_class(self.kind)
        )

    @property
    def _arguments(self) -> dict[str, Any]:
        """All that the factory, or the class, is called with; `deg` as numbers."""
        own: dict[str, Any] = json.loads(self.arguments)
        known: dict[str, Any] = {"in_channels": self.features, "out_channels": self.classes, "deg": self.degrees}
        known |= {"edge_dim": self.edge_features} if self.edge_features else {}
        taken = factories.list_taken(self._factory, known)
        if self.kind == MODULE:
            return taken | own
        taken |= {"deg": self.degrees} if self.kind == "pna" else {}
        return taken | factories.list_pyg_arguments(self.kind, self.layers, self.hidden, self.heads, self.norm) | own

    def _make(self) -> nn.Module:
        arguments = self._arguments
        if "deg" in arguments:
            arguments["deg"] = torch.tensor(arguments["deg"])
        return factories.make_module(self._factory, arguments, self._where).float()

    @property
    def _where(self) -> str:
        if self.kind == MODULE:
            return f"model.factory = {self.factory!r}"
        return f"model.kind = {self.kind!r} (PyG's {PYG[self.kind]})"

    def _try(self, module: nn.Module) -> None:
        """See that a module computes on a ring of nodes, which gives what is lazy in it its shape.

        Raises: JobError, in one line, where it does not, or where it could not be mixed.
        """
        where = self._where
        if kept := [name for name, part in module.named_modules() if getattr(part, "cached", False) is True]:
            raise JobError(f"{where}: {kept[0]} has cached = True, and would keep its first graph: leave it out")
        for name, used in (("edge_weight", self.weighted), ("edge_attr", self.edge_features)):
            if used and not factories.takes_values(module, name, self.takes == "sparse"):
                raise JobError(
                    f"{where}: graph.{name} = 'use', and the module's forward takes no {name}: give it one, or use"
                    " 'ignore'"
                )
        if self.edge_features and factories.lacks_edge_dim(module):
            raise JobError(
                f"{where}: graph.edge_attr = 'use', and {type(module).__name__} passes over edge_attr without edge_dim:"
                f" make it with edge_dim = {self.edge_features}, or use 'ignore'"
            )
        ring, _ = _make_ring(_PROBE, self.edge_features)
        given, named = self._list_inputs(Subgraph(torch.ones(_PROBE, self.features), ring))
        try:
            with torch.no_grad():
                found, again = module.eval()(*given, **named), module(*given, **named)
        except Exception as error:  # whatever the user's code raises
            what = f"{self.features} features, and {', '.join([self.takes, *named])}"
            raise JobError(f"{where}: the module fails on {what}: {factories.describe_error(error)}") from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != (_PROBE, self.classes):
            raise JobError(
                f"{where}: of {_PROBE} nodes the module makes {shape}, where one tensor of shape"
                f" {(_PROBE, self.classes)} is wanted, a score a node and output"
            )
        if not torch.allclose(found, again, rtol=0.0, atol=0.0, equal_nan=True):
            raise JobError(
                f"{where}: the module gives other scores the second time, in evaluation mode: let its dropout ask for"
                " `training=self.training`"
            )
        for name, value in module.state_dict().items():
            if not isinstance(value, Tensor) or value.is_complex():
                raise JobError(f"{where}: {name!r} of the module's state is no tensor of real numbers: it has no mean")

    def _list_inputs(self, graph: Subgraph) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """What the module is called with, by place and by name; weights of 1 on a trial, whose graph has none."""
        adjacency = graph.adjacency
        if self.takes == "sparse":
            return (graph.x, adjacency.matrix), {}
        values = {"edge_weight": adjacency.values} if self.weighted else {}
        if self.edge_features:
            if adjacency.edge_attr is None:
                raise ValueError("the model takes features of edges, and the graph has none")
            values["edge_attr"] = adjacency.edge_attr
        return (graph.x, adjacency.edge_index), values

    def _place(self, device: torch.device) -> nn.Module:
        """The template, there: buffers that are in no state lie where it computes."""
        return self.template.to(device)

    @contextmanager
    def _set_mode(self, module: nn.Module, mode: Mode, dropout: Dropout | None) -> Iterator[None]:
        module.train(mode == "train")
        if mode == "evaluate":
            yield
        elif mode == "fit":
            with fitting(module):
                yield
        else:
            if dropout is None:
                raise ValueError("training a module wants a dropout, whose seed it draws from")
            if self.kind != MODULE:
                _set_dropout(module, dropout.rate)
            with torch.random.fork_rng(_list_gpus(module)):
                torch.manual_seed(dropout.draw_seed())
                yield


def make_module_model(record: Mapping[str, Any], folder: str, revision: str) -> ModuleModel:
    """The model of a record; folder, revision: as in the job that goes with it.

    Raises: TypeError or KeyError for what is no such record; RunError where the module's code is another by now.
    """
    values = {name: value for name, value in record.items() if name not in ("code", "entries_sha256")}
    values["arguments"] = canonical(record["arguments"])
    made = ModuleModel(**values, revision=revision, folder=folder)
    if made.kind == MODULE and made.code != record["code"]:
        raise RunError(
            f"the code of model.factory = {made.factory!r} is another ({made.code}) than weights were made with"
            f" ({record['code']}): put it back; or, if it computes what it did, set model.revision = {record['code']!r}"
            " in the job, and make its soups again (--again)"
        )
    return made


def _make_ring(nodes: int, edge_features: int) -> tuple[Adjacency, int]:
    """Each node's neighbours are the one before and the one after it; features of edges are 1."""
    ids = torch.arange(nodes)
    ends = torch.stack([ids.roll(1), ids.roll(-1)], 1).sort(1).values
    start, attr = torch.arange(0, 2 * nodes + 1, 2, dtype=torch.int32), torch.ones(2 * nodes, edge_features)
    return Adjacency(start, ends.int().flatten(), edge_attr=attr if edge_features else None), nodes


def _read_state(module: nn.Module) -> State:
    ties = find_ties(module)
    return {name: tensor.detach() for name, tensor in module.state_dict().items() if name not in ties}


def _set_dropout(module: nn.Module, rate: float) -> None:
    """Of PyG's classes: after each hidden layer, and of attention."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
        elif isinstance(getattr(part, "dropout", None), float) and hasattr(part, "heads"):
            part.__dict__["dropout"] = rate


def _list_gpus(module: nn.Module) -> list[torch.device]:
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    return [device] if device.type == "cuda" else []
