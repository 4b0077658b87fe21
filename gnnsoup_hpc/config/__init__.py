"""The typed job: its sections and their fields.

Every field is documented once, by the text below it; `gnnsoup job [JOB]` prints the resolved job with them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod
from operator import getitem
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gnnsoup_hpc.config.methods import BLIND, DEFAULT_METHODS, MethodName
from gnnsoup_hpc.config.methods import METHOD_NAMES as METHOD_NAMES
from gnnsoup_hpc.config.recipes import RecipeName, make_fields
from gnnsoup_hpc.types import (
    Average,
    Draw,
    Grouping,
    Labels,
    MetricName,
    Precision,
    Recompute,
    Schedule,
    Start,
    TaskKind,
    TrainOptimiser,
)

# ---- what sections have in common

Rate = Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Fanout = Annotated[int, Field(ge=-1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
FirstHop = Literal["truncated", "exact"]


class Section(BaseModel):
    """A table of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


# ---- what was meant by a word that is not known


def find_nearest(word: str, known: Sequence[str], least: float = 0.0) -> str:
    """The end of a message that names the known word most like `word`; "" where none is `least` alike, from 0 to 1."""
    lower = {each.lower(): each for each in known}
    near = [lower[each] for each in difflib.get_close_matches(word.lower(), lower, n=1, cutoff=least)]
    return f"; the nearest known one is {near[0]!r}" if near else ""


def find_nearest_value(error: Any) -> str:
    """The same of a validation error that lists what is allowed, and of no other; where the value is much like one."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    return find_nearest(error["input"], re.findall(r"'(.*?)'", error["msg"]), least=0.6)


# ---- memory sizes as people write them

AUTO = "auto"
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("kmgt", 1)
    for kind, base in (("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def parse_bytes(text: str) -> int | None:
    """Bytes of "2 GiB", "500 MiB", "1.5 GB" or "2000000000"; None for "auto", which leaves them to the machine.

    Raises: ValueError for anything else, and for nothing at all.
    """
    if text.strip().lower() == AUTO:
        return None
    found = _SIZE.fullmatch(text.strip().lower())
    count = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if not count:
        raise ValueError(
            f"{text!r} is no size of memory: write a number and B, KiB, MiB, GiB, TiB (or KB, MB, GB, TB), for example"
            " '2 GiB', or 'auto'"
        )
    return count


def format_bytes(count: float) -> str:
    """A size for people, never smaller than it is: "1.3 GiB", "200 MiB"."""
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    tenths = -(-int(count) * 10 // unit) if unit == 2**30 else -(-int(count) // unit) * 10
    return f"{tenths / 10:.1f}".removesuffix(".0") + f" {name}"


# ---- what labels mean

METRICS: dict[TaskKind, tuple[MetricName, ...]] = {  # of each kind of task, what `auto` stands for first
    "multiclass": ("accuracy", "roc_auc", "average_precision", "f1_micro", "f1_macro"),
    "binary": ("roc_auc", "average_precision", "accuracy", "f1_micro", "f1_macro"),
    "multilabel": ("roc_auc", "average_precision", "f1_micro", "f1_macro"),
    "regression": ("r2", "mae"),
}


class TaskJob(Section):
    """What labels mean: the loss that models are trained and alphas are fitted by, the metric that all is chosen by."""

    kind: Literal["auto", "multiclass", "binary", "multilabel", "regression"] = "auto"
    """multiclass: one of C classes a node; binary: two classes and one output; multilabel: T yes-or-no labels;
    regression: numbers; auto: what the source's y looks like (docs/tasks.md), which `prepare` says"""
    metric: Literal["auto", "accuracy", "roc_auc", "average_precision", "f1_micro", "f1_macro", "mae", "r2"] = "auto"
    """auto: accuracy of multiclass, roc_auc of binary and multilabel, r2 of a regression"""
    label_smoothing: Fraction = 0.0
    """of the cross-entropy that multiclass ingredients are trained by (arXiv 1512.00567, section 7)"""
    class_weights: Literal["none", "balanced"] = "none"
    """of the loss: balanced: a class, or each label's yes and no, counts as much as another, whatever its share of the
    training nodes"""
    targets: Literal["standardise", "none"] = "standardise"
    """of a regression: models give targets less their mean over training nodes, by their deviation; metrics are in the
    source's units; none: models give them as they are"""

    @model_validator(mode="after")
    def _has_a_meaning(self) -> Self:
        if self.kind != "auto":
            self.check(self.kind)
        return self

    def check(self, kind: TaskKind) -> None:
        """See that the fields mean something for a kind of task. Raises: ValueError naming the one that does not."""
        if self.metric not in ("auto", *METRICS[kind]):
            raise ValueError(
                f"metric = {self.metric!r} is not for kind = {kind!r}; there is: {', '.join(METRICS[kind])}"
            )
        if self.label_smoothing and kind != "multiclass":
            raise ValueError(f"label_smoothing = {self.label_smoothing} is for kind = 'multiclass', not {kind!r}")
        if self.class_weights != "none" and kind == "regression":
            raise ValueError(f"class_weights = {self.class_weights!r}: a regression has no classes")
        if self.targets != "standardise" and kind != "regression":
            raise ValueError(f"targets = {self.targets!r} is for kind = 'regression', not {kind!r}")


# ---- learned methods

Optimiser = Literal["paper", "lbfgs", "adam", "eg"]
_OF_PAPER = {"learning_rate", "momentum", "restart", "restart_factor"}


class LearnedJob(Section):
    """Learned Souping; Partition Learned Souping adds the union of parts."""

    _steps_of_paper: ClassVar[int] = 50
    optimiser: Optimiser = "lbfgs"
    """lbfgs: L-BFGS with a line search; adam; eg: exponentiated gradient; paper: SGD with warm restarts, which is also
    meant where none is named but a learning_rate, momentum or restart is given"""
    epochs: Count = 50
    """most evaluations of the loss and its gradient, one a step but for lbfgs"""
    tolerance: Fraction = 1e-4
    """lbfgs stops where a step lowers the loss by less than this (by this share of it, where it is above 1); 0: only
    where nothing does"""
    learning_rate: float = Field(0.0, ge=0.0, le=1000.0, allow_inf_nan=False)
    """of paper, adam or eg; 0: its own, which is 10, 0.3 or 20; lbfgs has none, for it searches"""
    momentum: Fraction = 0.0
    """SGD's momentum, of paper"""
    restart: Count = 4
    """T_0 of cosine annealing with warm restarts, in steps, of paper"""
    restart_factor: Count = 1
    """of paper; T_mult: each cycle is so many times longer than the last"""
    start: Literal["auto", "xavier", "uniform"] = "auto"
    """of raw alphas: drawn with Glorot's deviation, or all weights alike; auto: xavier of paper alone"""
    alpha: Grouping = "layer"
    """one alpha vector a layer, a tensor, or for the whole model"""
    weights: Literal["softmax", "affine", "free"] = "softmax"
    """softmax: a group's alphas are shares; affine: they sum to 1 but may be negative; free: any"""
    regularise: float = Field(0.0, ge=0.0, le=1000.0)
    """pull towards 1/N: this times the squared distance to it, mean over groups, is added to the loss"""
    holdout: Fraction = 0.0
    """share of each part's validation nodes that is kept out of the loss; by them the best alpha seen is chosen; 0:
    none"""
    logit_scale: bool = True
    """the loss is that of logits times the scale which makes it lowest, fitted each time, so that alpha is not spent
    on making the soup more or less sure of itself; changes no prediction; with paper false, where the job does not
    say"""

    @property
    def rate(self) -> float:
        """The learning rate, the optimiser's own where none is given."""
        return self.learning_rate or {"paper": 10.0, "adam": 0.3, "eg": 20.0, "lbfgs": 0.0}[self.optimiser]

    @property
    def uniform_start(self) -> bool:
        """Whether all weights are alike at first."""
        return self.start == "uniform" or (self.start == "auto" and self.optimiser != "paper")

    @model_validator(mode="before")
    @classmethod
    def _knows_older_jobs(cls, tree: Any) -> Any:
        """Jobs from before there was a choice have the fields of the one optimiser of then, and its number of steps."""
        if not isinstance(tree, dict):
            return tree
        given = {name for name in _OF_PAPER & tree.keys() if tree[name] != LearnedJob.model_fields[name].default}
        if "optimiser" not in tree and given:
            tree = tree | {"optimiser": "paper"}
        of_paper = {"epochs": cls._steps_of_paper, "logit_scale": False}
        return of_paper | tree if tree.get("optimiser") == "paper" else tree

    @model_validator(mode="after")
    def _fits_its_optimiser(self) -> Self:
        if self.optimiser == "lbfgs" and self.learning_rate:
            raise ValueError(f"learning_rate = {self.learning_rate}: optimiser = 'lbfgs' has none, it searches")
        for name in ("momentum", "restart", "restart_factor"):
            value = getattr(self, name)
            if self.optimiser != "paper" and value != LearnedJob.model_fields[name].default:
                raise ValueError(f"{name} = {value} is for optimiser = 'paper'; {self.optimiser} has none")
        if self.optimiser == "eg" and self.weights != "softmax":
            raise ValueError("optimiser = 'eg' needs weights = 'softmax'")
        return self


class PartitionLearnedJob(LearnedJob):
    """Partition Learned Souping: LS on a fresh union of parts each step."""

    _steps_of_paper: ClassVar[int] = 100
    optimiser: Optimiser = "adam"
    """as for ls; lbfgs searches on each union anew, and takes the mean of what it finds"""
    epochs: Count = 25
    """most evaluations of the loss and its gradient; with paper 100, where the job does not say"""
    reuse: Count = 1
    """evaluations on one union before the next is drawn; of lbfgs the most"""
    union: Natural = 4
    """R, the parts whose union makes one step's subgraph, at most partition.parts; 0: as many as fit in
    machine.memory_limit, at most 8"""
    first_hop: FirstHop = "truncated"
    """first aggregation of gcn and sage: inside the union, as the paper has it; or the whole graph's, which is computed
    once and kept in the run"""
    prefetch: bool = True
    """read the next union while this one is in use; holds its features longer"""

    @model_validator(mode="after")
    def _holds_out_for_one_course(self) -> Self:
        if self.optimiser == "lbfgs" and self.holdout:
            raise ValueError(
                "holdout needs one course of alpha, and optimiser = 'lbfgs' searches anew on each union: use 'adam'"
            )
        return self


class DistilJob(Section):
    """One model, trained to give what all ingredients give together."""

    start: Literal["scratch", "uniform", "ls", "pls"] = "uniform"
    """the student begins at the uniform soup, of ingredients in one order (soup.align), or from scratch; or at the soup
    of ls or pls, which soup.methods has before distil, or the run has already"""
    epochs: Count = 150
    """most passes over all parts; the weights of the best validation epoch are kept, or, where all labels are trained
    on (train.labels), those of the last"""
    union: Natural = 0
    """parts whose union makes one step's subgraph, at most partition.parts; 0: as many as fit in machine.memory_limit,
    all of them where they do: the more, the nearer to what the ensemble saw"""
    learning_rate: Rate = 0.01
    """Adam's learning rate"""
    schedule: Schedule = "cosine"
    """of the learning rate: constant, or cosine: it falls along half a cosine to the last epoch"""
    weight_decay: Decay = 0.0
    """Adam's weight decay (L2)"""
    dropout: Fraction = 0.5
    """dropout after each hidden layer of the student; for GAT on attention too"""
    temperature: Rate = 1.0
    """teacher's and student's logits are divided by it; a regression has none"""
    label_share: Fraction = 0.0
    """share of the ordinary loss on labels that are trained on in the loss; the rest is the distance to the teacher"""
    patience: Natural = 0
    """it is done after so many epochs without a better validation metric; 0: after all epochs"""

    @property
    def start_method(self) -> str:
        """The method whose soup's file the student begins at; empty where it needs none."""
        return self.start if self.start in ("ls", "pls") else ""


# ---- training


class VaryJob(Section):
    """Values that ingredients take in turn: ingredient i gets value i modulo the list's length; empty = none."""

    learning_rate: tuple[Rate, ...] = Field((), strict=False)
    """learning rates to take in turn"""
    weight_decay: tuple[Decay, ...] = Field((), strict=False)
    """weight decays to take in turn"""
    dropout: tuple[Fraction, ...] = Field((), strict=False)
    """dropout rates to take in turn"""
    drop_edges: tuple[Fraction, ...] = Field((), strict=False)
    """rates of edge dropping to take in turn"""
    drop_features: tuple[Fraction, ...] = Field((), strict=False)
    """rates of feature dropping to take in turn"""
    epochs: tuple[Count, ...] = Field((), strict=False)
    """epoch counts to take in turn"""


class TrainJob(Section):
    """How ingredients are trained: each alone, from one initial state unless asked otherwise."""

    recipe: RecipeName = ""
    """fields of [train] by one name, as far as the job does not name them itself: shared, trunk, own, varied, dropped,
    snapshots, tournament, bagged (docs/methods.md); empty: none"""
    ingredients: Count = 8
    """N, the number of ingredients"""
    seed: Seed = 0
    """seed of the initial state; ingredient i draws its dropout from (seed, i)"""
    batch: Literal["full", "cluster", "neighbour"] = "full"
    """full: one step an epoch, on the whole graph; cluster: a step on each union of parts (Cluster-GCN); neighbour: a
    step on sampled neighbourhoods of each batch of nodes (GraphSAGE)"""
    clusters: Natural = 1
    """parts a union of cluster batches, and of the evaluation between epochs of mini-batches; 0: as many as fit in
    machine.memory_limit, at most 8"""
    first_hop: FirstHop = "truncated"
    """of cluster batches: truncated: neighbours' features are summed up inside a step's union; exact: over the whole
    graph, once, into a file of the run (GraphSAGE and GCN)"""
    batch_size: Count = 1024
    """training nodes a step of neighbour batches"""
    fanout: tuple[Fanout, ...] = Field((10,), min_length=1, strict=False)
    """in-neighbours sampled of each node, from the last layer inwards; -1 = all; the last one repeats"""
    sampler: Literal["auto", "compiled", "own", "pyg"] = "auto"
    """of neighbour batches: compiled, ours with a thread of its own; own, the one of before; pyg, PyG's; auto: what the
    run was trained with so far, else compiled"""
    engine: Literal["auto", "compiled", "triton", "torch"] = "auto"
    """what computes the steps: compiled, our kernels on a CPU; triton, ours on a GPU; torch, anywhere; auto: what the
    run was trained with so far, else ours where they can. torch draws other masks of dropout than ours; without dropout
    all give the same weights but for rounding"""
    epochs: Count = 100
    """epochs an ingredient; the weights of the best validation epoch are kept"""
    labels: Labels = "training"
    """training: models are trained on the labels of training nodes; all: on those of validation nodes too, for all
    epochs, and the weights of the last are kept: what a soup that learns by these labels is compared with"""
    bag: float = Field(1.0, gt=0.0, le=1.0, strict=False)
    """share of the nodes to train on that each ingredient is trained on, drawn without replacement from (seed, i) and
    the same in all epochs; at least one node; the trunk has all"""
    learning_rate: Rate = 0.005
    """Adam's learning rate"""
    weight_decay: Decay = 0.0
    """Adam's weight decay (L2), or AdamW's own"""
    optimiser: TrainOptimiser = "adam"
    """adam; adamw: its weight decay is apart from the gradient (arXiv 1711.05101)"""
    schedule: Schedule = "constant"
    """of the learning rate: constant, or cosine: it falls along half a cosine to the last epoch (arXiv 1608.03983)"""
    warmup_epochs: Natural = 0
    """first epochs, over which the learning rate rises in equal steps"""
    clip_norm: float = Field(0.0, ge=0.0, allow_inf_nan=False, strict=False)
    """largest norm of a step's gradients, all together, which are scaled down to it; 0: any"""
    patience: Natural = 0
    """an ingredient is done after so many epochs without a better validation metric; 0: after all epochs"""
    validate_every: Count = 1
    """validation follows every so many epochs, and the last; the others can be neither the best nor end it"""
    precision: Precision = "float32"
    """of the dense products of training; bfloat16 where the processor or GPU has such products (docs/results.md says
    what that gains and costs); sums, losses and the weights themselves stay float32. Epochs are judged in it too; the
    metrics that an ingredient records of its best epoch are float32's"""
    average: Average = "none"
    """weights that are judged and kept: none, those after the epoch; ema, a running mean over steps; swa, the mean of
    those after each epoch from `average_from` on (arXiv 1803.05407), before it as none"""
    average_decay: float = Field(0.99, gt=0.0, lt=1.0, strict=False)
    """of ema: what a step leaves of the mean before; less in the first steps, (1 + step) / (10 + step)"""
    average_from: float = Field(0.75, ge=0.0, lt=1.0, strict=False)
    """of swa: share of the epochs that come before it"""
    dropout: Fraction = 0.5
    """dropout after each hidden layer; for GAT on attention too"""
    drop_edges: Fraction = 0.0
    """share of edges that each training step leaves out, an edge and its reverse alike (DropEdge)"""
    drop_features: Fraction = 0.0
    """share of input features that each training step leaves out, of all nodes alike, while the others are scaled by
    1 / (1 - share)"""
    start: Start = "shared"
    """shared: all ingredients start from one initial state; own: each from its own, of (seed, i): such ingredients lie
    in different basins, and their soups collapse unless they are aligned; snapshots: ingredient 0 as shared, each other
    from the weights that the one before it kept, with a fresh optimiser and its schedule anew: all are one training,
    and are trained one after the other (arXiv 1704.00109)"""
    trunk_epochs: Natural = 0
    """epochs that one shared state is trained for, before every ingredient branches from it for `epochs` more; the
    job's own learning rate, decay, dropping, optimiser, clipping, precision and labels, none that vary, and nothing
    else of theirs"""
    trunk_starts: Count = 1
    """trunks that are trained, each from an initial state of its own and with draws of its own; that with the best
    validation metric after its last epoch is the trunk, the others are not kept"""
    shared_draws: tuple[Draw, ...] = Field((), strict=False)
    """what all ingredients draw alike, as ingredient 0 does: order (of batches, and sampled neighbours), dropout
    (masks), edges and features (that are left out), nodes (of the bag); what is not named, each draws for itself"""
    checkpoint_seconds: float = Field(60.0, ge=0.0, allow_inf_nan=False, strict=False)
    """least time between two checkpoints of an ingredient, each at the end of an epoch; 0: only when a signal asks to
    stop. Results do not depend on it"""
    vary: VaryJob = VaryJob()
    """hyperparameters that differ between ingredients"""

    @property
    def differ(self) -> bool:
        """Whether anything makes ingredients differ from one another."""
        drawn = {
            "order": self.batch != "full",
            "dropout": bool(self.dropout or any(self.vary.dropout)),
            "edges": bool(self.drop_edges or any(self.vary.drop_edges)),
            "features": bool(self.drop_features or any(self.vary.drop_features)),
            "nodes": self.bag < 1.0,
        }
        own = any(used and name not in self.shared_draws for name, used in drawn.items())
        return self.start != "shared" or own or any(len(set(values)) > 1 for _, values in self.vary)

    @model_validator(mode="wrap")
    @classmethod
    def _follows_its_recipe(cls, tree: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        job = handler(tree)
        if not job.recipe:
            return job
        named = job.model_dump(exclude_unset=True)
        for name, value in make_fields(job.recipe, job).items():
            named[name] = value | named.get(name, {}) if isinstance(value, dict) else named.get(name, value)
        return handler(named)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.start == "own" and self.trunk_epochs:
            raise ValueError(
                f"start = 'own' and trunk_epochs = {self.trunk_epochs} contradict each other: a trunk is a start"
                " that all share; leave one of them out"
            )
        if self.trunk_starts > 1 and not self.trunk_epochs:
            raise ValueError(
                f"trunk_starts = {self.trunk_starts} chooses among trunks, and trunk_epochs = 0 trains none: set"
                " trunk_epochs too"
            )
        if len(set(self.shared_draws)) != len(self.shared_draws):
            raise ValueError("shared_draws names a draw twice")
        fewest = min([self.epochs, *self.vary.epochs])
        if self.warmup_epochs >= fewest:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} leaves none of {fewest} epochs; give fewer")
        if self.first_hop == "exact" and self.batch == "neighbour":
            raise ValueError("first_hop = 'exact' is for batch = 'cluster': neighbour batches sum up what they sampled")
        if self.first_hop == "exact" and (self.drop_edges or any(self.vary.drop_edges)):
            raise ValueError("first_hop = 'exact' sums up all edges, and drop_edges leaves some out: use one of them")
        if 0 in self.fanout:
            raise ValueError("fanout = 0 samples no neighbour; -1 takes all")
        return self


# ---- sweeps

SweptName = Literal["gis", "ls", "pls", "distil"]
SWEPT: tuple[SweptName, ...] = get_args(SweptName)
SEEDED: tuple[SweptName, ...] = ("ls", "pls", "distil")  # methods that draw anything
MOST_CELLS = 10_000
Values = Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]


def _make_hashable(value: Any) -> Any:
    """What is equal for equal values of TOML, and can be looked up."""
    if isinstance(value, dict):
        return frozenset((key, _make_hashable(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_make_hashable, value))
    return value if isinstance(value, Hashable) else repr(value)


class SweepJob(Section):
    """Lists of values; a method is made with each combination of its own, and ingredients with each of theirs."""

    seed: tuple[Seed, ...] = Field((), min_length=1, strict=False)
    """seeds to make each combination of ls, pls and distil with, for soup.seed"""
    gis: dict[str, Values] = Field(default_factory=dict)
    """values for fields of soup.gis, a list each"""
    ls: dict[str, Values] = Field(default_factory=dict)
    """values for fields of soup.ls, a list each"""
    pls: dict[str, Values] = Field(default_factory=dict)
    """values for fields of soup.pls, a list each: learning_rate = [0.1, 0.3]"""
    distil: dict[str, Values] = Field(default_factory=dict)
    """values for fields of soup.distil, a list each: start = ["uniform", "ls"]"""
    train: dict[str, Values] = Field(default_factory=dict)
    """values for fields of train, a list each; ingredients are trained with every combination of these and model's"""
    model: dict[str, Values] = Field(default_factory=dict)
    """values for fields of model, a list each; ingredients of equal models are souped together"""

    @field_validator("seed", *SWEPT, "train", "model")
    @classmethod
    def _each_once(cls, given: Any) -> Any:
        lists = given if isinstance(given, dict) else {"seed": given}
        for key, values in lists.items():
            if len({(type(value), _make_hashable(value)) for value in values}) < len(values):
                raise ValueError(f"{key} = {list(values)} lists a value twice")
        return given

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A job without a sweep is written as it was before there were any."""
        return {key: value for key, value in whole(self).items() if value}

    def __bool__(self) -> bool:
        """Whether anything is swept."""
        return bool(self.seed or self.trains or any(getattr(self, method) for method in SWEPT))

    @property
    def trains(self) -> bool:
        """Whether values of training are swept (config/grid.py)."""
        return bool(self.train or self.model)


Share = Annotated[float, Field(gt=0.0, lt=1.0)]
MemoryLimit = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class SyntheticJob(Section):
    """Parameters of `synthetic:PRESET`; other sources ignore them."""

    seed: Seed = 0
    """seed of the generated graph"""
    scale: float = Field(1.0, gt=0.0, le=64.0)
    """nodes as a multiple of the preset's; degrees, features, classes stay"""
    homophily: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """share of edges between nodes of equal labels; 0: the preset's. Not less than edges at random would have"""


class GraphJob(Section):
    """Where the graph comes from and how it is split and prepared."""

    source: str = "bundled:pubmed"
    """bundled:NAME, ogb:NAME, pyg:NAME, npz:PATH, pt:PATH or synthetic:PRESET (docs/graphs.md)"""
    root: str = Field("datasets", min_length=1)
    """folder where ogb: and pyg: find sets, or else download them to"""
    undirected: bool = True
    """add the reverse of every edge"""
    reverse: bool = False
    """turn every edge round first; matters where undirected = false"""
    self_loops: Literal["keep", "remove", "add"] = "keep"
    """keep those of the source, remove them, or add one to every node; GCN and GAT add their own"""
    duplicates: Literal["merge", "refuse"] = "merge"
    """merge edges that the source has more than once, or refuse such a source"""
    split: Literal["auto", "public", "random", "stored"] = "auto"
    """public: the set's published split; random: seeded shares; stored: as in the source file; auto: the first of
    public, stored, random that the source has"""
    split_index: Natural = 0
    """which one, of a source with several public splits"""
    split_seed: Seed = 0
    """seed of a random split, and of label_share's draw"""
    train_share: Share = 0.6
    """share of labelled nodes to train on, in a random split"""
    validation_share: Share = 0.2
    """share to validate (and soup) on; what remains is for testing"""
    label_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """share of the split's training nodes that stay so, drawn by split_seed, at least one; the others have no role"""
    features: Literal["standardise", "scale", "row-normalise", "none"] = "standardise"
    """standardise: zero mean, unit variance over all nodes; scale: unit variance alone, which keeps zeros;
    row-normalise: rows by their absolute sums"""
    feature_layout: Literal["auto", "dense", "sparse"] = "auto"
    """how features are kept and computed on; auto: sparse where at most 5 % of the values are not zero, unless they
    are standardised, which leaves no zeros"""
    edge_weight: Literal["refuse", "ignore", "use"] = "refuse"
    """weights of edges: refuse a source that has some; ignore them, which the report says; or compute with them: gcn as
    in PyG, sage by weighted means, and modules that take edge_weight"""
    edge_attr: Literal["refuse", "ignore", "use"] = "refuse"
    """features or types of edges: refuse a source that has some; ignore them, likewise; or compute with them: gat,
    gatv2 and pna as in PyG, and modules that take edge_attr"""
    synthetic: SyntheticJob = SyntheticJob()
    """the generated graph"""

    @model_validator(mode="after")
    def _leaves_test_nodes(self) -> Self:
        if self.split in ("random", "auto") and self.train_share + self.validation_share >= 1.0:
            raise ValueError("train_share + validation_share must stay below 1, so that test nodes remain")
        return self

    @model_validator(mode="after")
    def _keeps_zeros(self) -> Self:
        if self.feature_layout == "sparse" and self.features == "standardise":
            raise ValueError(
                "feature_layout = 'sparse' keeps zeros, and features = 'standardise' leaves none: use 'scale'"
            )
        return self


class PartitionJob(Section):
    """METIS partition of the graph, which PLS streams."""

    parts: Count = 32
    """K, the number of parts"""
    seed: Seed = 0
    """METIS's seed"""
    imbalance: int = Field(30, ge=1, le=1000)
    """allowed excess of a part's weight in thousandths (ufactor)"""
    edge_weight: Literal["ignore", "use"] = "ignore"
    """METIS cuts few edges, or with "use" edges of little weight, where graph.edge_weight = "use" (docs/graphs.md)"""


class ModelJob(Section):
    """The architecture that all ingredients share. Which kinds there are, and what each takes, models/ says."""

    kind: str = "sage"
    """gcn, sage (GraphSAGE with mean aggregation) and gat, which have engines of their own; PyG's gatv2, gin, pna and
    edgecnn; or module, any torch module that `factory` makes"""
    layers: int = Field(2, ge=1, le=64)
    """number of message passing layers"""
    hidden: Count = 128
    """hidden channels; for GAT those of all heads together"""
    heads: Count = 1
    """attention heads of GAT; must divide hidden"""
    norm: Literal["none", "layer", "batch", "graph"] = "none"
    """norm after each hidden layer, or none; batch and graph are PyG's, computed by the torch engine"""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """what the factory, or PyG's class, is called with besides: { jk = "cat", act = "elu" }"""
    factory: str = ""
    """of kind = "module": "package.module:function", which makes a torch.nn.Module of the arguments, and of
    in_channels, out_channels and deg (nodes of each in-degree) where it takes them (docs/models.md)"""
    takes: Literal["edge_index", "sparse"] = "edge_index"
    """what the module is called with beside the features: edges (2, E), or a sparse CSR matrix, a row a destination"""
    hops: Natural = 0
    """message passing layers of the module, for neighbour batches and graphs that do not fit in memory; 0: not known"""
    groups: tuple[str, ...] = Field((), strict=False)
    """beginnings of names of parameters that share an alpha vector with alpha = "layer"; none: the module's children"""
    revision: str = ""
    """name of the module's code, in place of a hash of the files that it is written in; the hash of older code says
    that the code of now computes the same"""
    folder: str = ""
    """where the factory is imported from first; empty: the folder of the job file"""

    @field_validator("kind")
    @classmethod
    def _kind_is_there(cls, value: str, info: ValidationInfo) -> str:
        *known, last = (repr(kind) for kind in info.context or (value,))
        if repr(value) not in (*known, last):
            raise PydanticCustomError("literal_error", f"Input should be {', '.join(known)} or {last}")
        return value

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} must be a multiple of heads = {self.heads}")
        return self


class GisJob(Section):
    """Greedy Interpolated Souping."""

    granularity: int = Field(20, ge=2, le=10_000)
    """interpolation ratios tried for each ingredient"""


class SoupJob(Section):
    """Which soups are made, and how."""

    methods: tuple[MethodName, ...] = Field(DEFAULT_METHODS, min_length=1, strict=False)
    """methods, in this order; distil, which trains a model, only where it is named"""
    seed: Seed = 0
    """seed of alpha's start and of the drawn unions"""
    precision: Precision = "float32"
    """of dense products while souping; bfloat16 where the processor or GPU has such products: about twice as fast, a
    little less exact. The accuracies that are reported are those of float32"""
    unfit: Literal["refuse", "leave out"] = "refuse"
    """what to do about an ingredient that is missing, damaged, foreign or not finite"""
    leave_out: tuple[Natural, ...] = Field((), strict=False)
    """numbers of ingredients that are neither mixed nor diagnosed"""
    align: Literal["none", "weights", "activations", "auto"] = "auto"
    """put ingredients' hidden units in the order of the best one's first, matched by weights or by what they do on
    validation nodes; changes no ingredient's outputs; auto: by weights where that lifts the mean of all by more than
    the error, else none"""
    recompute: Recompute = "each"
    """of models with batch norm: the running statistics of every candidate that greedy and gis score are computed anew,
    which costs a pass over the graph each; or, with end, only those of each method's soup, while candidates have mixed
    ones; or, with none, no mixture's"""
    diagnose: bool = True
    """end with a diagnosis: are the ingredients in one basin? Costs two evaluations an ingredient"""
    gis: GisJob = GisJob()
    """options of GIS"""
    ls: LearnedJob = LearnedJob()
    """options of LS"""
    pls: PartitionLearnedJob = PartitionLearnedJob()
    """options of PLS"""
    distil: DistilJob = DistilJob()
    """options of distil"""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("methods names a method twice")
        return self


class MachineJob(Section):
    """What the ranks may use; no result depends on it but through rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU a rank where there is one"""
    threads: int = Field(0, ge=0, le=4096)
    """threads a rank; 0: OMP_NUM_THREADS, else what Slurm gave a task, else cores / ranks on the node"""
    memory_limit: MemoryLimit = "auto"
    """most resident memory of a rank, libraries included, for example '2 GiB': batches, unions and evaluation are
    chosen to stay within it, or refused; auto: half of the machine's / ranks on the node"""

    device_memory_limit: MemoryLimit = "auto"
    """most memory that a rank allocates on its GPU, for example '20 GiB'; auto: the GPU's / the ranks that share it"""

    @field_validator("memory_limit", "device_memory_limit")
    @classmethod
    def _is_a_size(cls, text: str) -> str:
        parse_bytes(text)
        return text


class Job(Section):
    """One complete, named experiment."""

    name: str = Field(..., pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)
    """names the run: runs/NAME"""
    runs: str = Field("runs", min_length=1)
    """folder of all runs, relative to where the command is given"""
    graph: GraphJob = GraphJob()
    """the graph"""
    partition: PartitionJob = PartitionJob()
    """its parts"""
    task: TaskJob = TaskJob()
    """what its labels mean"""
    model: ModelJob = ModelJob()
    """the architecture"""
    train: TrainJob = TrainJob()
    """the ingredients"""
    soup: SoupJob = SoupJob()
    """the soups"""
    machine: MachineJob = MachineJob()
    """threads and device"""
    sweep: SweepJob = SweepJob()
    """lists of values. Of methods' fields: each combination is made, and the one with the best validation metric is the
    method's soup. Of train and model: ingredients are trained with each, and souped together (docs/methods.md)"""

    @model_validator(mode="before")
    @classmethod
    def _scales_no_numbers(cls, tree: Any) -> Any:
        """No output of a regression is a logit: `logit_scale` is off where the job does not say, and else refused."""
        task, soup = (tree.get(name, {}) if isinstance(tree, dict) else {} for name in ("task", "soup"))
        if not isinstance(task, dict) or not isinstance(soup, dict) or task.get("kind") != "regression":
            return tree
        learned = {name: soup.get(name, {}) for name in ("ls", "pls")}
        if any(not isinstance(own, dict) for own in learned.values()):
            return tree
        for name, own in learned.items():
            if own.get("logit_scale"):
                raise ValueError(f"soup.{name}.logit_scale = true: outputs of a regression have no temperature")
        return tree | {"soup": soup | {name: {"logit_scale": False} | own for name, own in learned.items()}}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        methods, start = self.soup.methods, self.soup.distil.start_method
        if "distil" in methods and start in methods[methods.index("distil") :]:
            raise ValueError(
                f"soup.distil.start = {start!r}, and soup.methods has {start!r} after 'distil': list it before"
            )
        if self.sweep:
            grids = expand_grids(self)
            if "distil" in methods and "distil" not in grids and start in grids:
                raise ValueError(
                    f"soup.distil.start = {start!r}, and the sweep chooses that soup after distil is made: give"
                    f" sweep.distil.start = [{start!r}], which is made after the other sweeps"
                )
        pls, parts, clusters = self.soup.pls, self.partition.parts, self.train.clusters
        if pls.union > parts:
            raise ValueError(
                f"soup.pls.union = {pls.union} parts (R) cannot be drawn from partition.parts = {parts} (K)"
            )
        if pls.optimiser == "lbfgs" and pls.reuse < 2 and pls.union != parts:
            raise ValueError(
                "soup.pls.optimiser = 'lbfgs' compares losses on one union: give soup.pls.reuse, the evaluations"
                " on each, for example 6"
            )
        if self.soup.distil.union > parts:
            raise ValueError(
                f"soup.distil.union = {self.soup.distil.union} parts cannot be drawn from partition.parts = {parts} (K)"
            )
        if self.partition.edge_weight == "use" and self.graph.edge_weight != "use":
            raise ValueError(
                "partition.edge_weight = 'use' cuts by weights of edges, and graph.edge_weight ="
                f" {self.graph.edge_weight!r} leaves the graph without: set that to 'use' too"
            )
        if self.train.batch != "full" and clusters > parts:
            raise ValueError(f"train.clusters = {clusters} is more than partition.parts = {parts} (K)")
        return self

    @model_validator(mode="after")
    def _has_labels_to_choose_by(self) -> Self:
        if self.train.labels != "all":
            return self
        if choosing := list_choosing(self, 2 if self.sweep.trains else self.train.ingredients):
            raise ValueError(
                "train.labels = 'all' leaves no label to choose or learn by, as soup.methods does with"
                f" {', '.join(choosing)}: name uniform, ensemble, distil (from the uniform soup or from scratch, in no"
                " sweep), or best where there is one ingredient"
            )
        if "distil" in self.soup.methods and self.soup.distil.patience:
            raise ValueError(
                "soup.distil.patience: train.labels = 'all' leaves no label to judge epochs by: leave it out"
            )
        return self

    def to_toml(self) -> str:
        """The resolved job: every field with its value, as a job file that gives this job again."""
        text = tomli_w.dumps(self.model_dump(mode="json", exclude=None if self.sweep else {"sweep"}))
        return text.encode("utf-8", "replace").decode()  # a run's folder that was found may be named in no UTF-8


@dataclass(frozen=True)
class Trial:
    """One combination. job: the whole job with these values and without a sweep; values: what was swept, by its key."""

    method: SweptName
    job: Job
    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The combination in words."""
        return ", ".join(f"{key} = {value}" for key, value in self.values.items())


def expand_grids(job: Job) -> dict[SweptName, tuple[Trial, ...]]:
    """The cells of each method that is swept, in the order of the lists, the last key's values changing fastest.

    Raises: ValueError where the sweep names what there is not, or a combination makes no valid job.
    """
    found: dict[SweptName, tuple[Trial, ...]] = {}
    for method in SWEPT:
        lists = _lists(job, method)
        if not lists:
            continue
        if method not in job.soup.methods:
            raise ValueError(
                f"sweep.{method} is given, but soup.methods has no {method!r}: add it, or leave the lists out"
            )
        size = prod(map(len, lists.values()))
        if size > MOST_CELLS:
            raise ValueError(f"sweep.{method} has {size} combinations, more than {MOST_CELLS}: give fewer values")
        combinations = (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
        found[method] = tuple(Trial(method, _job(job, method, values), values) for values in combinations)
    if job.sweep.seed and not any(method in found for method in SEEDED):
        raise ValueError("sweep.seed is for ls, pls and distil, and soup.methods has none of them")
    return found


def list_starts(job: Job) -> list[str]:
    """Methods whose soups distil begins at, in the job or in trials of its sweep."""
    if "distil" not in job.soup.methods:
        return []
    jobs = [trial.job for trial in expand_grids(job).get("distil", ())] or [job]
    return sorted({each.soup.distil.start_method for each in jobs} - {""})


def list_choosing(job: Job, ingredients: int) -> list[str]:
    """Those of its methods that choose or learn by validation labels; of one ingredient `best` has no choice.

    With train.labels = "all" `distil` has none either, unless it begins at a soup that was learned, or is swept.
    """
    blind = {*BLIND, *(["best"] if ingredients == 1 else [])}
    if job.train.labels == "all" and not job.sweep.distil and not job.soup.distil.start_method:
        blind.add("distil")
    return [name for name in job.soup.methods if name not in blind]


def _lists(job: Job, method: SweptName) -> dict[str, tuple[Any, ...]]:
    """What is swept of a method: its seeds, then its own fields."""
    own: dict[str, tuple[Any, ...]] = getattr(job.sweep, method)
    check_keys(method, own, getattr(job.soup, method))
    if 0 in own.get("union", ()):
        raise ValueError(f"sweep.{method}.union = 0 would leave a value to the memory limit: name each")
    seeds = method in SEEDED and job.sweep.seed and method in job.soup.methods
    return ({"seed": job.sweep.seed} if seeds else {}) | own


def check_keys(table: str, lists: Mapping[str, Any], section: Section) -> None:
    """See that the lists of [sweep.TABLE] are of fields of a section. Raises: ValueError naming the nearest one."""
    known = list(type(section).model_fields)
    for key in lists:
        if key not in known:
            near = find_nearest(f"sweep.{table}.{key}", [f"sweep.{table}.{name}" for name in known])
            raise ValueError(f"unknown key 'sweep.{table}.{key}'{near}")


def _job(job: Job, method: SweptName, values: Mapping[str, Any]) -> Job:
    """The job with a combination in place. Raises: ValueError where that is no valid job."""
    own = {f"soup.{method}.{key}": value for key, value in values.items() if key != "seed"}
    return put_values(job, own | ({"soup.seed": values["seed"]} if "seed" in values else {}))


def put_values(job: Job, values: Mapping[str, Any], kinds: Sequence[str] = ()) -> Job:
    """The job with values by their dotted names, and without a sweep; `kinds` are those that model.kind may be.

    Raises: ValueError where that is no valid job.
    """
    tree = job.model_dump(exclude={"sweep"})
    for name, value in values.items():
        *tables, key = name.split(".")
        reduce(getitem, tables, tree)[key] = value
    try:
        return Job.model_validate(tree, context=kinds)
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        told = ", ".join(f"sweep.{name.removeprefix('soup.')} = {value!r}" for name, value in values.items())
        raise ValueError(f"with {told}: {message[0].lower()}{message[1:]}{find_nearest_value(first)}") from None
