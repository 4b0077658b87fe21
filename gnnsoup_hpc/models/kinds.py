"""The kinds of model that a job may name. It loads no torch."""

from __future__ import annotations

from gnnsoup_hpc.config import ModelJob
from gnnsoup_hpc.models.convolutions import CONVOLUTIONS, find_convolution

PYG = {  # kind in [model]: class of torch_geometric.nn.models
    "gcn": "GCN",
    "sage": "GraphSAGE",
    "gat": "GAT",
    "gatv2": "GAT",
    "gin": "GIN",
    "pna": "PNA",
    "edgecnn": "EdgeCNN",
}
WITH_EDGE_ATTR = ("gat", "gatv2", "pna")  # those whose classes make use of features of edges
MODULE = "module"  # what model.factory makes


def list_kinds() -> tuple[str, ...]:
    """All that [model] may name."""
    return *CONVOLUTIONS, *(kind for kind in PYG if kind not in CONVOLUTIONS), MODULE


def is_stack(job: ModelJob, edge_attr: bool = False) -> bool:
    """Whether it is a stack of convolutions of ours, which fast engines compute: of plain options alone.

    edge_attr: whether it computes with features of edges, which these stacks do not.
    """
    if job.kind not in CONVOLUTIONS or job.arguments or edge_attr:
        return False
    return job.norm == "none" or (job.norm == "layer" and find_convolution(job.kind).takes_norm)


def has_heads(kind: str) -> bool:
    """Whether models of that kind have attention heads."""
    return kind == "gatv2" or (kind in CONVOLUTIONS and find_convolution(kind).has_heads)


def describe_model(job: ModelJob) -> str:
    """A job's model in words."""
    given = ", ".join(f"{name} = {value!r}" for name, value in job.arguments.items())
    also = f" ({given})" if given else ""
    if job.kind == MODULE:
        return f"{job.factory}{also}"
    heads = f", {job.heads} heads" if has_heads(job.kind) else ""
    norm = f", {job.norm} norm" if job.norm in ("batch", "graph") else ""
    return f"{job.kind}, {job.layers} layers, hidden {job.hidden}{heads}{norm}{also}"
