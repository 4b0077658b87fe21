"""Our kernels against float64, on a graph with empty rows and a hub; two runs bit by bit; engines against another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.compiled.engine import CompiledEngine
from gnnsoup_hpc.engine.torch import TorchEngine
from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.engine.triton.kernels import Csr, sum_rows
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import Architecture
from tests.gpu.tools import GPU, attempt, record

HUB = 20_000


def make_structure(nodes: int, entries: int, hub: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Directed, with empty rows, self-loops, a row of `hub` entries and a column of as many; int32, on the host."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, nodes, (2, entries))
    row = np.where(row % 10 == 3, row + 1, row) % nodes  # rows that end in 3 are empty
    row = np.concatenate([row, np.full(hub, 5), rng.choice(nodes, hub, replace=False)])
    column = np.concatenate([column, rng.choice(nodes, hub, replace=False), np.full(hub, 7)])
    key = np.unique(row.astype(np.int64) * nodes + column)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(key // nodes, minlength=nodes))])
    return torch.from_numpy(indptr.astype(np.int32)), torch.from_numpy((key % nodes).astype(np.int32))


def check_sums() -> None:
    """Widths, precisions, scales; rows that are cut."""
    indptr, indices = make_structure(60_000, 900_000, HUB)
    nodes = len(indptr) - 1
    exact = torch.sparse_csr_tensor(indptr, indices, torch.ones(len(indices), dtype=torch.float64), (nodes, nodes)).to(
        GPU
    )
    csr = Csr.of(indptr[:-1].to(GPU), indptr[1:].to(GPU), indices.to(GPU))
    assert csr.pieces is not None
    for width in (47, 100, 256):
        for kind, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 6e-3)):
            x = torch.randn(nodes, width, device=GPU).to(kind)
            rows, columns = torch.rand(2, nodes, device=GPU)
            wanted = rows.double()[:, None] * (exact @ (columns.double()[:, None] * x.double()))
            out = torch.full((nodes, width), torch.nan, device=GPU, dtype=kind)
            sum_rows(csr, x, out, row_scale=rows, column_scale=columns)
            error = float((out.double() - wanted).norm() / wanted.norm())
            again = sum_rows(csr, x, torch.empty_like(out), row_scale=rows, column_scale=columns)
            label = f"sums of rows, {width} channels, {str(kind).removeprefix('torch.')}"
            record(f"{label}, relative error", error, "", error < tolerance)
            record(f"{label}, two runs bit-equal", bool(torch.equal(out, again)), "", bool(torch.equal(out, again)))


def batch_of(net: Architecture, nodes: int = 30_000) -> Batch:
    """On the host, in float64."""
    indptr, indices = make_structure(nodes, 300_000, HUB)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(nodes, net.features, generator=generator, dtype=torch.float64)
    seeds = torch.arange(0, nodes, 11)
    targets = torch.randint(net.classes, (len(seeds),), generator=generator)
    weight = torch.rand(len(indices), generator=generator, dtype=torch.float64) if net.weighted else None
    return Batch(Subgraph(x, Adjacency(indptr, indices, dtype=torch.float64, weight=weight)), seeds, targets)


def in_float(batch: Batch) -> Batch:
    """The same in float32."""
    graph, of = batch.graph, batch.graph.adjacency
    weight = None if of.weight is None else of.weight.float()
    return replace(batch, graph=Subgraph(graph.x.float(), Adjacency(of.indptr, of.indices, weight=weight)))


def describe(net: Architecture) -> str:
    """What is compared."""
    return f"{net.kind}{' of weighted edges' if net.weighted else ''}, {net.heads} heads, norm {net.norm}"


def check_engine(net: Architecture) -> None:
    """Logits and gradients of all parameters, with the same masks of dropout, beside the compiled engine in float64."""
    batch = batch_of(net)
    state = net.init_state(3)
    state = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4))
        for name, tensor in state.items()
    }
    exact = {name: tensor.double().requires_grad_() for name, tensor in state.items()}
    label = describe(net)
    for rate in (0.0, 0.5):
        dropout = CountedDropout(rate, 12345)
        wanted = CompiledEngine().logits(
            CompiledEngine().plan(net, batch, train=True), exact, mode="train", dropout=dropout
        )
        grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / len(wanted)
        wanted_grads = torch.autograd.grad(wanted, list(exact.values()), grad)
        for precision, tolerance in (("float32", 2e-5), ("bfloat16", 0.06)):
            engine = TritonEngine()
            plan = engine.plan(net, in_float(batch), train=True, device=GPU, precision=precision)
            runs = []
            for _ in range(2):
                own = {name: tensor.to(GPU).requires_grad_() for name, tensor in state.items()}
                found = engine.logits(plan, own, mode="train", dropout=dropout)
                grads = torch.autograd.grad(found, list(own.values()), grad.float().to(GPU))
                runs.append([found.detach(), *grads])
            what = f"triton, {label}, {precision}, dropout {rate}"
            error = float((runs[0][0].cpu().double() - wanted.detach()).norm() / wanted.detach().norm())
            record(f"{what}: logits", error, "", error < tolerance)
            whole = torch.cat([g.flatten() for g in wanted_grads])
            error = float((torch.cat([g.flatten() for g in runs[0][1:]]).cpu().double() - whole).norm() / whole.norm())
            record(f"{what}: gradients", error, "", error < 3 * tolerance)
            same = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
            record(f"{what}: two runs bit-equal", same, "", same)
    plan = TorchEngine().plan(net, in_float(batch), device=GPU)
    here = {name: tensor.to(GPU) for name, tensor in state.items()}
    found, vjp = TorchEngine().vjp(plan, here)
    wanted, wanted_vjp = CompiledEngine().vjp(
        CompiledEngine().plan(net, batch), {n: t.detach() for n, t in exact.items()}
    )
    error = float((found.cpu().double() - wanted).norm() / wanted.norm())
    record(f"torch, {label}: logits", error, "", error < 2e-5)
    one, two = vjp(grad.float().to(GPU)), wanted_vjp(grad)
    error = max(float((one[n].cpu() - two[n]).norm() / two[n].norm().clamp(min=1e-9)) for n in two)
    record(f"torch, {label}: gradients", error, "", error < 1e-3)


def check_replays(net: Architecture) -> None:
    """What a CUDA graph computes has the bits of passes that are launched one by one, whatever state and masks."""
    batch, engine = in_float(batch_of(net)), TritonEngine()
    plan = engine.plan(net, batch, train=True, device=GPU)
    label, same, generator = describe(net), True, torch.Generator().manual_seed(6)
    for rate in (0.0, 0.5):
        for turn in range(7):
            state = {
                n: (t + 0.1 * torch.randn(t.shape, generator=generator)).to(GPU) for n, t in net.init_state(1).items()
            }
            found = []
            for of in (plan, engine.plan(net, batch, train=True, device=GPU)):
                own = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
                logits = engine.logits(of, own, mode="train", dropout=CountedDropout(rate, turn))
                grads = torch.autograd.grad(logits.square().sum(), list(own.values()))
                found.append([engine.logits(of, state), logits.detach(), *grads])
            same &= all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    record(f"replayed, {label}: bits of launched passes", same, "", same and len(plan.captured) == 3)
    one, two = (engine.vjp(plan, state) for _ in range(2))
    grads = [vjp(logits.clone()) for logits, vjp in (one, two)]
    same = all(torch.equal(grads[0][name], grads[1][name]) for name in state)
    record(f"replayed, {label}: two passes before their gradients", same, "", same)


def main() -> None:
    """All of it."""
    torch.backends.cuda.matmul.allow_tf32 = False
    attempt("sums of rows", check_sums)
    nets = [
        Architecture(kind, 3, 50, 64, 19, heads, norm)
        for kind, heads, norm in (("sage", 1, "layer"), ("gcn", 1, "none"), ("gat", 1, "layer"), ("gat", 4, "none"))
    ]
    for net in [*nets, *(replace(net, weighted=True) for net in nets[:2])]:
        attempt(f"engine of {describe(net)}", lambda net=net: check_engine(net))
        attempt(f"replays of {describe(net)}", lambda net=net: check_replays(net))


if __name__ == "__main__":
    main()
