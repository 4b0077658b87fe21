"""Speed of GAT on a generated graph of ogbn-arxiv's size, beside PyG: 3 layers, hidden 256, one head and four."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch_geometric.nn import GAT

from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import Architecture
from tests.gpu.speed import profile
from tests.gpu.tools import GPU, attempt, make_graph, measure, record

NODES, PAIRS, VALIDATION, TRAINING = 169_343, 1_190_000, 29_799, 90_941
ENGINE = TritonEngine()


def check(heads: int) -> None:
    """Evaluation, LS and training, as ratios."""
    net = Architecture("gat", 3, 128, 256, 40, heads)
    indptr, indices = make_graph(NODES, PAIRS, 32)
    generator = torch.Generator(GPU).manual_seed(1)
    x = torch.randn(NODES, 128, device=GPU, generator=generator)
    order = torch.randperm(NODES, device=GPU, generator=generator)
    state = {name: tensor.to(GPU) for name, tensor in net.init_state(0).items()}
    batches = {}
    for what, nodes in (
        ("validation", order[:VALIDATION].sort()[0]),
        ("training", order[VALIDATION:][:TRAINING].sort()[0]),
    ):
        targets = torch.randint(40, (len(nodes),), device=GPU, generator=generator)
        batches[what] = Batch(Subgraph(x, Adjacency(indptr, indices)), nodes, targets)
    plan = ENGINE.plan(net, batches["validation"], device=GPU)
    trained = ENGINE.plan(net, batches["training"], train=True, device=GPU)
    own = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}

    def learn() -> None:
        logits, vjp = ENGINE.vjp(plan, state)
        leaf = logits.requires_grad_()
        (grad,) = torch.autograd.grad(functional.cross_entropy(leaf, plan.targets), leaf)
        vjp(grad)

    def train() -> None:
        logits = ENGINE.logits(trained, own, mode="train", dropout=CountedDropout(0.5, 7))
        functional.cross_entropy(logits, trained.targets).backward()

    module: Any = GAT(128, 256, 3, 40, heads=heads).to(GPU)
    module.load_state_dict(net.init_state(0))
    row = torch.arange(NODES, device=GPU).repeat_interleave(indptr.diff())
    edges = torch.stack([indices.long(), row])

    def stock(what: str) -> None:
        module.zero_grad(set_to_none=True)
        found = module(x, edges)[batches[what].seeds]
        functional.cross_entropy(found, batches[what].targets).backward()

    def evaluate() -> None:
        with torch.no_grad():
            module(x, edges)

    def stock_training() -> None:
        module.dropout.p = 0.5
        for convolution in module.convs:
            convolution.dropout = 0.5
        module.train()
        stock("training")

    with torch.no_grad():
        module.eval()
        wanted = module(x, edges)[batches["validation"].seeds]
        found = ENGINE.logits(plan, state)
        error = float((found - wanted).norm() / wanted.norm())
        record(f"{heads} heads: logits beside PyG's", error, "", error < 1e-4)
    tasks = {
        "evaluation": (lambda: ENGINE.logits(plan, state), evaluate),
        "LS evaluation": (learn, lambda: stock("validation")),
        "training epoch": (train, stock_training),
    }
    for task, (ours, theirs) in tasks.items():
        torch.cuda.reset_peak_memory_stats()
        mine = measure(ours)
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        other = measure(theirs)
        more = torch.cuda.max_memory_allocated() / 2**30
        profile(f"GAT, {heads} heads: {task}", ours)
        record(
            f"{heads} heads: {task}",
            mine,
            "ms",
            None,
            f"PyG {other:.2f} ms, {other / mine:.2f} x; peaks {peak:.2f}, {more:.2f} GiB",
        )


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    for heads in (1, 4):
        attempt(f"{heads} heads", lambda heads=heads: check(heads))
