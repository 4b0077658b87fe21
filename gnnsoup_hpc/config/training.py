"""The section [train] of a job and its fields, each with its description."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gnnsoup_hpc.config.base import Count, Decay, Dropout, Fanout, PartCount, Rate, Section, Seed
from gnnsoup_hpc.types import Draw, Start


class VaryJob(Section):
    """Values that ingredients take in turn: ingredient i gets value i modulo the list's length; empty = none."""

    learning_rate: tuple[Rate, ...] = Field((), strict=False, description="learning rates to take in turn")
    weight_decay: tuple[Decay, ...] = Field((), strict=False, description="weight decays to take in turn")
    dropout: tuple[Dropout, ...] = Field((), strict=False, description="dropout rates to take in turn")
    drop_edges: tuple[Dropout, ...] = Field((), strict=False, description="rates of edge dropping to take in turn")
    epochs: tuple[Count, ...] = Field((), strict=False, description="epoch counts to take in turn")


class TrainJob(Section):
    """How ingredients are trained: independently, from one initial state unless asked otherwise."""

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
    drop_edges: Dropout = Field(
        0.0, description="share of edges that each training step leaves out, an edge and its reverse alike (DropEdge)"
    )
    start: Start = Field(
        "shared",
        description="shared: all ingredients start from one initial state; own: each from its own, of (seed, i): such"
        " ingredients lie in different basins, and their soups collapse unless they are aligned",
    )
    trunk_epochs: int = Field(
        0,
        ge=0,
        description="epochs that one shared state is trained for, before every ingredient branches from it for `epochs`"
        " more; the job's own hyperparameters, none that vary",
    )
    shared_draws: tuple[Draw, ...] = Field(
        (),
        strict=False,
        description="what all ingredients draw alike, as ingredient 0 does: order (of batches, and sampled neighbours),"
        " dropout (masks), edges (that are left out); what is not named, each draws for itself",
    )
    checkpoint_seconds: float = Field(
        60.0,
        ge=0.0,
        allow_inf_nan=False,
        strict=False,
        description="least time between two checkpoints of an ingredient, each at the end of an epoch; 0: only when a"
        " signal asks to stop. Results do not depend on it",
    )
    vary: VaryJob = Field(
        default_factory=lambda: VaryJob(), description="hyperparameters that differ between ingredients"
    )

    @property
    def differ(self) -> bool:
        """Whether anything makes ingredients differ from one another."""
        drawn = {
            "order": self.batch != "full",
            "dropout": bool(self.dropout or any(self.vary.dropout)),
            "edges": bool(self.drop_edges or any(self.vary.drop_edges)),
        }
        own = any(used and name not in self.shared_draws for name, used in drawn.items())
        return self.start == "own" or own or any(len(set(values)) > 1 for _, values in self.vary)

    @model_validator(mode="after")
    def _trunk_is_shared(self) -> Self:
        if self.start == "own" and self.trunk_epochs:
            raise ValueError(
                f"start = 'own' and trunk_epochs = {self.trunk_epochs} contradict each other: a trunk is a start"
                " that all share; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _draws_each_once(self) -> Self:
        if len(set(self.shared_draws)) != len(self.shared_draws):
            raise ValueError("shared_draws names a draw twice")
        return self

    @model_validator(mode="after")
    def _samples_something(self) -> Self:
        if 0 in self.fanout:
            raise ValueError("fanout = 0 samples no neighbour; -1 takes all")
        return self
