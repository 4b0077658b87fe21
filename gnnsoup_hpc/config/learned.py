"""Sections of a job about the learned methods, LS and PLS."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gnnsoup_hpc.config.base import Count, PartCount, Section
from gnnsoup_hpc.types import Grouping

Optimiser = Literal["paper", "lbfgs", "adam", "eg"]
_OF_PAPER = {"learning_rate", "momentum", "restart", "restart_factor"}


class LearnedJob(Section):
    """Learned Souping; Partition Learned Souping adds the union of parts."""

    _steps_of_paper: ClassVar[int] = 50
    optimiser: Optimiser = Field(
        "lbfgs",
        description="lbfgs: L-BFGS with a line search; adam; eg: exponentiated gradient; paper: SGD with warm restarts,"
        " which is also meant where none is named but a learning_rate, momentum or restart is given",
    )
    epochs: Count = Field(50, description="most evaluations of the loss and its gradient, one a step but for lbfgs")
    tolerance: float = Field(
        1e-4,
        ge=0.0,
        lt=1.0,
        description="lbfgs stops where a step lowers the loss by less than this (by this share of it, where it is above"
        " 1); 0: only where nothing does",
    )
    learning_rate: float = Field(
        0.0,
        ge=0.0,
        le=1000.0,
        allow_inf_nan=False,
        description="of paper, adam or eg; 0: its own, which is 10, 0.3 or 20; lbfgs has none, for it searches",
    )
    momentum: float = Field(0.0, ge=0.0, lt=1.0, description="SGD's momentum, of paper")
    restart: Count = Field(4, description="T_0 of cosine annealing with warm restarts, in steps, of paper")
    restart_factor: Count = Field(1, description="of paper; T_mult: each cycle is so many times longer than the last")
    start: Literal["auto", "xavier", "uniform"] = Field(
        "auto",
        description="of raw alphas: drawn with Glorot's deviation, or all weights alike; auto: xavier of paper alone",
    )
    alpha: Grouping = Field("layer", description="one alpha vector a layer, a tensor, or for the whole model")
    weights: Literal["softmax", "affine", "free"] = Field(
        "softmax",
        description="softmax: a group's alphas are shares; affine: they sum to 1 but may be negative; free: any",
    )
    regularise: float = Field(
        0.0,
        ge=0.0,
        le=1000.0,
        description="pull towards 1/N: this times the squared distance to it, mean over groups, is added to the loss",
    )
    holdout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of each part's validation nodes that is kept out of the loss; by them the best alpha seen is"
        " chosen; 0: none",
    )
    logit_scale: bool = Field(
        True,
        description="the loss is that of logits times the scale which makes it lowest, told anew each time, so that"
        " alpha is not spent on making the soup more or less sure of itself; changes no prediction; with paper false,"
        " where the job does not say",
    )

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
    optimiser: Optimiser = Field(
        "adam",
        description="as for ls; lbfgs searches on each union anew, and takes the mean of what it finds",
    )
    epochs: Count = Field(
        25, description="most evaluations of the loss and its gradient; with paper 100, where the job does not say"
    )
    reuse: Count = Field(1, description="evaluations on one union before the next is drawn; of lbfgs the most")
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

    @model_validator(mode="after")
    def _holds_out_for_one_course(self) -> Self:
        if self.optimiser == "lbfgs" and self.holdout:
            raise ValueError(
                "holdout needs one course of alpha, and optimiser = 'lbfgs' searches anew on each union: use 'adam'"
            )
        return self
