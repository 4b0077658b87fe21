"""Sections of a job and their fields, each with its description."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import tomli_w
from pydantic import BeforeValidator, Field, field_validator, model_validator

from gnnsoup_hpc.config import sizes
from gnnsoup_hpc.config.base import Count, Section, Seed
from gnnsoup_hpc.config.learned import LearnedJob, PartitionLearnedJob
from gnnsoup_hpc.config.methods import METHOD_NAMES, MethodName
from gnnsoup_hpc.config.sweep import SweepJob, expand_grids
from gnnsoup_hpc.config.training import TrainJob
from gnnsoup_hpc.types import Precision

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
MemoryLimit = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


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
    edge_weight: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="weights of edges, which models here take none of yet: refuse a source that has some, or ignore"
        " them, which the report says",
    )
    edge_attr: Literal["refuse", "ignore"] = Field(
        "refuse", description="features or types of edges: refuse a source that has some, or ignore them, likewise"
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
    """The architecture that all ingredients share. Which kinds there are, and what each takes, models/ says."""

    kind: str = Field("sage", description="GCN, GraphSAGE with mean aggregation, or GAT")
    layers: int = Field(2, ge=1, le=64, description="number of message passing layers")
    hidden: Count = Field(128, description="hidden channels; for GAT those of all heads together")
    heads: Count = Field(1, description="attention heads of GAT; must divide hidden")
    norm: Literal["none", "layer"] = Field("none", description="layer norm after each hidden layer, or none")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} must be a multiple of heads = {self.heads}")
        return self


class GisJob(Section):
    """Greedy Interpolated Souping."""

    granularity: int = Field(20, ge=2, le=10_000, description="interpolation ratios tried for each ingredient")


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
    align: Literal["none", "weights", "activations", "auto"] = Field(
        "auto",
        description="put ingredients' hidden units in the order of the best one's first, matched by weights or by what"
        " they do on validation nodes; changes no ingredient's outputs; auto: by weights where that lifts the mean of"
        " all by more than the error, else none",
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
    threads: int = Field(
        0,
        ge=0,
        le=4096,
        description="threads a rank; 0: OMP_NUM_THREADS, else what Slurm gave a task, else cores / ranks on the node",
    )
    memory_limit: MemoryLimit = Field(
        "auto",
        description="most resident memory of a rank, libraries included, for example '2 GiB': batches, unions and"
        " evaluation are chosen to stay within it, or refused; auto: half of the machine's / ranks on the node",
    )

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, text: str) -> str:
        sizes.parse_bytes(text)
        return text


class Job(Section):
    """One complete, named experiment."""

    name: str = Field(
        ..., pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255, description="names the run: runs/NAME"
    )
    runs: str = Field("runs", min_length=1, description="folder of all runs, relative to where the command is given")
    graph: GraphJob = Field(default_factory=lambda: GraphJob(), description="the graph")
    partition: PartitionJob = Field(default_factory=lambda: PartitionJob(), description="its parts")
    model: ModelJob = Field(default_factory=lambda: ModelJob(), description="the architecture")
    train: TrainJob = Field(default_factory=lambda: TrainJob(), description="the ingredients")
    soup: SoupJob = Field(default_factory=lambda: SoupJob(), description="the soups")
    machine: MachineJob = Field(default_factory=lambda: MachineJob(), description="threads and device")
    sweep: SweepJob = Field(
        default_factory=lambda: SweepJob(),
        description="lists of values for methods' fields: each combination is made, and the one with the highest"
        " validation accuracy is the method's soup (docs/methods.md)",
    )

    @model_validator(mode="after")
    def _sweeps_what_there_is(self) -> Self:
        if self.sweep:
            expand_grids(self)
        return self

    @model_validator(mode="after")
    def _union_fits(self) -> Self:
        if self.soup.pls.union > self.partition.parts:
            raise ValueError(
                f"soup.pls.union = {self.soup.pls.union} parts (R) cannot be drawn from"
                f" partition.parts = {self.partition.parts} (K)"
            )
        pls = self.soup.pls
        if pls.optimiser == "lbfgs" and pls.reuse < 2 and pls.union != self.partition.parts:
            raise ValueError(
                "soup.pls.optimiser = 'lbfgs' compares losses on one union: give soup.pls.reuse, the evaluations"
                " on each, for example 6"
            )
        if self.train.batch != "full" and self.train.clusters > self.partition.parts:
            raise ValueError(
                f"train.clusters = {self.train.clusters} is more than partition.parts = {self.partition.parts} (K)"
            )
        return self

    def to_toml(self) -> str:
        """The resolved job: every field with its value, as a job file that gives this job again."""
        tree = self.model_dump(mode="json")
        text = tomli_w.dumps(tree if self.sweep else {key: tree[key] for key in tree if key != "sweep"})
        return text.encode("utf-8", "replace").decode()  # a run's folder that was found may be named in no UTF-8
