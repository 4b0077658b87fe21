"""Sections of a job and their fields, each with its description."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gnnsoup_hpc.job import sizes
from gnnsoup_hpc.records import Grouping, Precision

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, le=1.0)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
PartCount = Annotated[int, Field(ge=0)]
Fanout = Annotated[int, Field(ge=-1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MemoryLimit = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
MethodName = Literal["best", "uniform", "greedy", "gis", "ls", "pls", "ensemble"]

METHOD_NAMES: tuple[MethodName, ...] = ("best", "uniform", "greedy", "gis", "ls", "pls", "ensemble")


class Section(BaseModel):
    """A table of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SyntheticJob(Section):
    """Parameters of `synthetic:PRESET`; other sources ignore them."""

    seed: Seed = Field(0, description="seed of the generated graph")
    scale: float = Field(
        1.0, gt=0.0, le=64.0, description="nodes as a multiple of the preset's; degrees, features, classes stay"
    )


class GraphJob(Section):
    """Where the graph comes from and how it is split and prepared."""

    source: str = Field(
        "bundled:pubmed",
        description="bundled:NAME, ogb:NAME, pyg:NAME, npz:PATH, pt:PATH or synthetic:PRESET (docs/graphs.md)",
    )
    root: str = Field(
        "datasets", min_length=1, description="folder where ogb: and pyg: find sets, or else download them to"
    )
    undirected: bool = Field(True, description="add the reverse of every edge")
    reverse: bool = Field(False, description="turn every edge round first; matters where undirected = false")
    self_loops: Literal["keep", "remove", "add"] = Field(
        "keep", description="keep those of the source, remove them, or add one to every node; GCN and GAT add their own"
    )
    duplicates: Literal["merge", "refuse"] = Field(
        "merge", description="merge edges that the source has more than once, or refuse such a source"
    )
    split: Literal["auto", "public", "random", "stored"] = Field(
        "auto",
        description="public: the set's published split; random: seeded shares; stored: as in the source file;"
        " auto: the first of public, stored, random that the source has",
    )
    split_index: int = Field(0, ge=0, description="which one, of a source with several public splits")
    split_seed: Seed = Field(0, description="seed of a random split")
    train_share: Share = Field(0.6, description="share of labelled nodes to train on, in a random split")
    validation_share: Share = Field(0.2, description="share to validate (and soup) on; what remains is for testing")
    features: Literal["standardise", "row-normalise", "none"] = Field(
        "standardise",
        description="standardise: zero mean, unit variance over all nodes; row-normalise: rows by their absolute sums",
    )
    synthetic: SyntheticJob = Field(default_factory=lambda: SyntheticJob(), description="the generated graph")

    @model_validator(mode="after")
    def _leaves_test_nodes(self) -> Self:
        if self.split in ("random", "auto") and self.train_share + self.validation_share >= 1.0:
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
    batch: Literal["full", "cluster", "neighbour"] = Field(
        "full",
        description="full: one step an epoch, on the whole graph; cluster: a step on each union of parts (Cluster-GCN);"
        " neighbour: a step on sampled neighbourhoods of each batch of nodes (GraphSAGE)",
    )
    clusters: PartCount = Field(
        1,
        description="parts a union of cluster batches, and of the evaluation between epochs of mini-batches; 0: as many"
        " as fit in machine.memory_limit, at most 8",
    )
    batch_size: Count = Field(1024, description="training nodes a step of neighbour batches")
    fanout: tuple[Fanout, ...] = Field(
        (10,),
        min_length=1,
        strict=False,
        description="in-neighbours sampled of each node, from the last layer inwards; -1 = all; the last one repeats",
    )
    sampler: Literal["auto", "own", "pyg"] = Field(
        "auto", description="of neighbour batches: PyG's, our own, or PyG's where pyg-lib or torch-sparse is installed"
    )
    epochs: Count = Field(100, description="epochs an ingredient; the weights of the best validation epoch are kept")
    learning_rate: Rate = Field(0.005, description="Adam's learning rate")
    weight_decay: Decay = Field(0.0, description="Adam's weight decay (L2)")
    dropout: Dropout = Field(0.5, description="dropout after each hidden layer; for GAT on attention too")
    vary: VaryJob = Field(
        default_factory=lambda: VaryJob(), description="hyperparameters that differ between ingredients"
    )

    @model_validator(mode="after")
    def _samples_something(self) -> Self:
        if 0 in self.fanout:
            raise ValueError("fanout = 0 samples no neighbour; -1 takes all")
        return self


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
    union: PartCount = Field(
        4,
        description="R, the parts whose union makes one step's subgraph, at most partition.parts; 0: as many as fit in"
        " machine.memory_limit, at most 8",
    )
    first_hop: Literal["truncated", "exact"] = Field(
        "truncated",
        description="first aggregation of gcn and sage: inside the union, as the paper has it; or the whole graph's,"
        " which is computed once and kept in the run",
    )
    prefetch: bool = Field(True, description="read the next union while this one is in use; holds its features longer")


class SoupJob(Section):
    """Which soups are made, and how."""

    methods: tuple[MethodName, ...] = Field(
        METHOD_NAMES, min_length=1, strict=False, description="methods, in this order"
    )
    seed: Seed = Field(0, description="seed of alpha's start and of the drawn unions")
    precision: Precision = Field(
        "float32",
        description="of dense products while souping; bfloat16 where the processor or GPU has such products: about"
        " twice as fast, a little less exact. The accuracies that are reported are those of float32",
    )
    unfit: Literal["refuse", "leave out"] = Field(
        "refuse", description="what to do about an ingredient that is missing, damaged, foreign or not finite"
    )
    diagnose: bool = Field(
        True, description="end with a diagnosis: are the ingredients in one basin? Costs two evaluations an ingredient"
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
    memory_limit: MemoryLimit = Field(
        "auto",
        description="most resident memory of a rank, libraries included, for example '2 GiB': batches, unions and"
        " evaluation are chosen to stay within it, or refused; auto: half of the machine's / ranks on the node",
    )

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, text: str) -> str:
        sizes.bytes_of(text)
        return text


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
        if self.soup.pls.first_hop == "exact" and self.model.kind == "gat":
            raise ValueError(
                "soup.pls.first_hop = 'exact' cannot be had with model.kind = 'gat': attention depends on the weights,"
                " so there is no first hop to keep; use 'truncated'"
            )
        if self.train.batch != "full" and self.train.clusters > self.partition.parts:
            raise ValueError(
                f"train.clusters = {self.train.clusters} is more than partition.parts = {self.partition.parts} (K)"
            )
        return self

    def to_toml(self) -> str:
        """The resolved job: every field with its value, as a job file that gives this job again."""
        return tomli_w.dumps(self.model_dump(mode="json"))
