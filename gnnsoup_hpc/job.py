"""The typed job: one TOML file is one complete, named experiment.

Every field is documented once, here, in its `description`; `gnnsoup job [JOB]` prints the resolved job with them.
An unknown key is an error that names the key and the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gnnsoup_hpc.errors import JobError, MissingJobError
from gnnsoup_hpc.records import Grouping

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, le=1.0)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MethodName = Literal["best", "uniform", "greedy", "gis", "ls", "pls", "ensemble"]

METHOD_NAMES: tuple[MethodName, ...] = ("best", "uniform", "greedy", "gis", "ls", "pls", "ensemble")


class Section(BaseModel):
    """A table of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GraphJob(Section):
    """Where the graph comes from and how it is split and prepared."""

    source: str = Field("bundled:pubmed", description="bundled:NAME or npz:PATH (layout in docs/format.md)")
    undirected: bool = Field(True, description="add the reverse of every edge; duplicates are always merged")
    split: Literal["public", "random", "stored"] = Field(
        "random", description="public: the set's published split; random: seeded shares; stored: as in the source file"
    )
    split_seed: Seed = Field(0, description="seed of a random split")
    train_share: Share = Field(0.6, description="share of labelled nodes to train on, in a random split")
    validation_share: Share = Field(0.2, description="share to validate (and soup) on; what remains is for testing")
    features: Literal["standardise", "row-normalise", "none"] = Field(
        "standardise",
        description="standardise: zero mean, unit variance over all nodes; row-normalise: rows by their absolute sums",
    )

    @model_validator(mode="after")
    def _leaves_test_nodes(self) -> Self:
        if self.split == "random" and self.train_share + self.validation_share >= 1.0:
            raise ValueError("train_share + validation_share must stay below 1, so that test nodes remain")
        return self


class PartitionJob(Section):
    """METIS partition of the graph, which PLS streams."""

    parts: Count = Field(32, description="K, the number of parts")
    seed: Seed = Field(0, description="METIS's seed")
    imbalance: int = Field(30, ge=1, le=1000, description="allowed excess of a part's weight in thousandths (ufactor)")


class ModelJob(Section):
    """The architecture that all ingredients share."""

    kind: Literal["gcn", "sage", "gat"] = Field("sage", description="GCN, GraphSAGE with mean aggregation, or GAT")
    layers: int = Field(2, ge=1, le=64, description="number of message passing layers")
    hidden: Count = Field(128, description="hidden channels; for GAT those of all heads together")
    heads: Count = Field(1, description="attention heads of GAT; must divide hidden")
    norm: Literal["none", "layer"] = Field("none", description="layer norm after each hidden layer, or none")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.kind != "gat" and self.heads != 1:
            raise ValueError(f"heads = {self.heads} is for kind = 'gat'; {self.kind} has none")
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} must be a multiple of heads = {self.heads}")
        return self


class VaryJob(Section):
    """Values that ingredients take in turn: ingredient i gets value i modulo the list's length; empty = none."""

    learning_rate: tuple[Rate, ...] = Field((), strict=False, description="learning rates to take in turn")
    weight_decay: tuple[Decay, ...] = Field((), strict=False, description="weight decays to take in turn")
    dropout: tuple[Dropout, ...] = Field((), strict=False, description="dropout rates to take in turn")
    epochs: tuple[Count, ...] = Field((), strict=False, description="epoch counts to take in turn")


class TrainJob(Section):
    """How ingredients are trained: independently, from one initial state."""

    ingredients: Count = Field(8, description="N, the number of ingredients")
    seed: Seed = Field(0, description="seed of the initial state; ingredient i draws its dropout from (seed, i)")
    batch: Literal["full"] = Field("full", description="full: one step an epoch, on the whole graph")
    epochs: Count = Field(100, description="epochs an ingredient; the weights of the best validation epoch are kept")
    learning_rate: Rate = Field(0.005, description="Adam's learning rate")
    weight_decay: Decay = Field(0.0, description="Adam's weight decay (L2)")
    dropout: Dropout = Field(0.5, description="dropout after each hidden layer; for GAT on attention too")
    vary: VaryJob = Field(
        default_factory=lambda: VaryJob(), description="hyperparameters that differ between ingredients"
    )


class GisJob(Section):
    """Greedy Interpolated Souping."""

    granularity: int = Field(20, ge=2, le=10_000, description="interpolation ratios tried for each ingredient")


class LearnedJob(Section):
    """Learned Souping; Partition Learned Souping adds the union of parts."""

    epochs: Count = Field(50, description="gradient steps on alpha")
    learning_rate: Rate = Field(10.0, description="SGD's learning rate for the raw alphas")
    momentum: float = Field(0.0, ge=0.0, lt=1.0, description="SGD's momentum")
    restart: Count = Field(4, description="T_0 of cosine annealing with warm restarts, in steps")
    restart_factor: Count = Field(1, description="T_mult: each cycle is this many times longer than the last")
    alpha: Grouping = Field("layer", description="one alpha vector a layer, a tensor, or for the whole model")
    logit_scale: bool = Field(False, description="learn a scale of the logits in the loss (changes no prediction)")


class PartitionLearnedJob(LearnedJob):
    """Partition Learned Souping: LS on a fresh union of parts each step."""

    epochs: Count = Field(100, description="gradient steps on alpha, each on its own union of parts")
    union: Count = Field(4, description="R, the parts whose union makes one step's subgraph; at most partition.parts")


class SoupJob(Section):
    """Which soups are made, and how."""

    methods: tuple[MethodName, ...] = Field(
        METHOD_NAMES, min_length=1, strict=False, description="methods, in this order"
    )
    seed: Seed = Field(0, description="seed of alpha's start and of the drawn unions")
    unfit: Literal["refuse", "leave out"] = Field(
        "refuse", description="what to do about an ingredient that is missing, damaged, foreign or not finite"
    )
    gis: GisJob = Field(default_factory=lambda: GisJob(), description="options of GIS")
    ls: LearnedJob = Field(default_factory=lambda: LearnedJob(), description="options of LS")
    pls: PartitionLearnedJob = Field(default_factory=lambda: PartitionLearnedJob(), description="options of PLS")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("methods names a method twice")
        return self


class MachineJob(Section):
    """What the ranks may use; no result depends on it but through rounding."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU a rank where there is one")
    threads: int = Field(0, ge=0, le=4096, description="threads a rank; 0: cores it may use / ranks on the node")


class Job(Section):
    """One complete, named experiment."""

    name: str = Field(..., pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run: runs/NAME")
    runs: str = Field("runs", min_length=1, description="folder of all runs, relative to where the command is given")
    graph: GraphJob = Field(default_factory=lambda: GraphJob(), description="the graph")
    partition: PartitionJob = Field(default_factory=lambda: PartitionJob(), description="its parts")
    model: ModelJob = Field(default_factory=lambda: ModelJob(), description="the architecture")
    train: TrainJob = Field(default_factory=lambda: TrainJob(), description="the ingredients")
    soup: SoupJob = Field(default_factory=lambda: SoupJob(), description="the soups")
    machine: MachineJob = Field(default_factory=lambda: MachineJob(), description="threads and device")

    @model_validator(mode="after")
    def _union_fits(self) -> Self:
        if self.soup.pls.union > self.partition.parts:
            raise ValueError(
                f"soup.pls.union = {self.soup.pls.union} parts (R) cannot be drawn from"
                f" partition.parts = {self.partition.parts} (K)"
            )
        return self

    def to_toml(self) -> str:
        """The resolved job: every field with its value, as a job file that gives this job again."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def load(text: str | None = None, overrides: Sequence[str] = ()) -> Job:
    """The job of a TOML file's path or a bundled job's name (default `pubmed`), with `a.b=value` overrides applied.

    Raises: JobError naming the file, the key and what is allowed.
    """
    path = find(text or "pubmed")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise MissingJobError(f"{path}: cannot be read: {error.strerror}") from None
    for override in overrides:
        _override(tree, override)
    return validated(tree, str(path))


def validated(tree: Mapping[str, Any], where: str) -> Job:
    """The job that `tree` describes; `where` begins the message of an error."""
    try:
        return Job.model_validate(tree)
    except ValidationError as error:
        details = "; ".join(_explain(item) for item in error.errors())
        raise JobError(f"{where}: {details}") from None


def find(text: str) -> Path:
    """Path of the job that `text` names: a file, or else a bundled job."""
    path = Path(text).expanduser()
    if path.is_file():
        return path
    bundled = {job.stem: job for job in bundled_jobs()}
    if text in bundled:
        return bundled[text]
    hint = f"the bundled job {path.stem!r} needs no path" if path.stem in bundled else f"bundled: {', '.join(bundled)}"
    raise MissingJobError(f"there is no job file {text!r} here ({Path.cwd()}); {hint}")


def bundled_jobs() -> list[Path]:
    """The job files that come with the package: beside it in a checkout, inside it once installed."""
    package = Path(__file__).resolve().parent
    folder = next((f for f in (package / "jobs", package.parent / "jobs") if (f / "pubmed.toml").is_file()), None)
    if folder is None:
        raise JobError(f"the bundled jobs are missing from {package}: install the package again")
    return sorted(folder.glob("*.toml"))


def fields(section: type[Section] = Job, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, description) of every field, tables before what they hold."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}", field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation, f"{prefix}{name}.")


def explained(job: Job) -> str:
    """The resolved job as TOML, each field's description as a comment above it."""
    about, table, lines = dict(fields()), "", []
    for line in job.to_toml().split("\n"):
        if line.startswith("["):
            table = line.strip("[]") + "."
            lines.append(f"# {about[table[:-1]]}")
        elif " = " in line:
            lines.append(f"# {about[table + line.split(' = ')[0]]}")
        lines.append(line)
    return "\n".join(lines)


def _override(tree: dict[str, Any], text: str) -> None:
    """Set `a.b=value` in `tree`; a value that is no TOML is taken as text."""
    key, equals, value = text.partition("=")
    *tables, last = key.strip().split(".")
    if not equals or not last:
        raise JobError(f"--set {text!r}: expected KEY=VALUE, for example soup.pls.union=8")
    for name in tables:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise JobError(f"--set {text!r}: {name!r} is a value, not a table")
    tree[last] = _value(key.strip(), value.strip())


def _value(key: str, text: str) -> object:
    """What TOML reads in `text`; the text itself where that is none, or the field wants text (`name=2024`)."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, str) or key not in _TEXT_FIELDS else text


_TEXT_FIELDS = ("name", "runs", "graph.source")


def _explain(item: Any) -> str:
    """One validation error as `key: what is wrong`, with the nearest known key for an unknown one."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, [name for name, _ in fields()], n=1, cutoff=0.0)
        return f"unknown key {key!r}; the nearest known one is {near[0]!r}"
    if item["type"] == "missing":
        return f"the key {key!r} is missing"
    message = str(item["msg"]).removeprefix("Value error, ").replace("a valid tuple", "a list")
    if item["type"] in ("model_type", "model_attributes_type"):
        message = "Input should be a table"
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {item['input']!r}: {message[0].lower()}{message[1:]}"
