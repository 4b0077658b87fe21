"""Speed on a generated graph of ogbn-products' size: evaluation, LS and training, beside PyG's best way and the bound.

GraphSAGE, 3 layers, hidden 256, 100 features, 47 classes. Nodes 2,449,029; about 128 million entries; 39,323
validation and 196,615 training nodes (arXiv 2005.00687), drawn at random. Degrees are heavy-tailed and most edges lie
within blocks of nodes that stand together, as METIS parts do in graph.h5. Times are medians by CUDA's events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric import EdgeIndex
from torch_geometric.nn import GraphSAGE

from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.engine.triton.kernels import Csr, Tuning, sum_rows
from gnnsoup_hpc.engine.triton.plan import TritonPlan
from gnnsoup_hpc.engine.triton.unions import HeldGraph
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Precision, State
from gnnsoup_hpc.utils.rng import numpy_generator
from tests.gpu.tools import GPU, OUT, attempt, make_graph, measure, record

NODES, PAIRS, VALIDATION, TRAINING = 2_449_029, 64_500_000, 39_323, 196_615
NET = Architecture("sage", 3, 100, 256, 47)
ENGINE = TritonEngine()
RATES: dict[str, float] = {}  # TB/s and TFLOP/s of this card
EXTENT = Extent(NODES, 128_226_446, 128_226_446, VALIDATION)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def measure_rates() -> None:
    """What bounds are told from."""
    x = torch.randn(2**28, device=GPU)
    y = torch.empty_like(x)
    RATES["copy"] = 2 * x.nbytes / measure(lambda: y.copy_(x)) / 1e9
    for precision, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(8192, 8192, device=GPU, dtype=kind) for _ in range(2))
        RATES[precision] = 2 * 8192**3 / measure(lambda: a @ b) / 1e9  # noqa: B023


def find_bound(plan: TritonPlan, precision: str, backward: bool) -> float:
    """Milliseconds of products at the card's rate and of sums with every gather served by its memory."""
    size, net = (2 if precision == "bfloat16" else 4), plan.net
    flops = moved = 0.0
    for layer, rows in enumerate(plan.rows):
        width, out = net.widths(layer)[0] * 2, net.widths(layer)[1]
        flops += 2.0 * rows * width * out * ((2 if not layer else 3) if backward else 1)
        if layer:
            entries = int(plan.start[rows])
            moved += (size * width / 2 + 4) * entries * (2 if backward else 1)
            moved += size * rows * width * (3 if backward else 1)
        else:
            moved += size * rows * width * (2 if backward else 1)
    return flops / RATES[precision] / 1e9 + moved / RATES["copy"] / 1e9


def compare_tunings(csr: Csr) -> None:
    """How a sum of rows is best divided."""
    for kind, width in ((torch.float32, 256), (torch.bfloat16, 256), (torch.float32, 100)):
        x = torch.randn(NODES, width, device=GPU, dtype=kind)
        out = torch.empty_like(x)
        gathered = len(csr.indices) * width * x.element_size()
        for entries, channels, warps in (
            (8, 256, 1),
            (8, 128, 1),
            (16, 128, 1),
            (4, 128, 1),
            (8, 64, 1),
            (16, 64, 1),
            (8, 128, 2),
            (4, 64, 1),
        ):
            tuning = Tuning(entries, channels, warps)
            taken = measure(partial(sum_rows, csr, x, out, tuning=tuning), most=3)
            tile = f"{entries} entries, {channels} channels, {warps} warps"
            label = f"sums, {str(kind).removeprefix('torch.')} {width}: {tile}"
            record(label, taken, "ms", None, f"{gathered / taken / 1e9:.2f} TB/s gathered")
        del x, out


def time_cusparse(csr: Csr) -> None:
    """The same sum by PyTorch's own product."""
    x = torch.randn(NODES, 256, device=GPU)
    start = torch.cat([csr.start, csr.end[-1:]])
    matrix = torch.sparse_csr_tensor(start, csr.indices, torch.ones(len(csr.indices), device=GPU), (NODES, NODES))
    record("sums, float32 256: cuSPARSE through PyTorch", measure(lambda: matrix @ x, most=3), "ms")


def time_ours(batch: Batch, training: Batch, state: State) -> dict[str, float]:
    """Evaluation, LS and training."""
    found: dict[str, float] = {}
    for precision in PRECISIONS:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        plan = ENGINE.plan(NET, batch, device=GPU, precision=precision)
        end.record()
        torch.cuda.synchronize()
        record(f"plan of validation nodes, {precision}", start.elapsed_time(end), "ms", None, f"rows {plan.rows}")
        assert len(plan.structures) == 2
        key = f"evaluation, {precision}"
        found[key] = measure(partial(ENGINE.logits, plan, state))
        note(key, found[key], find_bound(plan, precision, False))
        taken = measure(lambda plan=plan: list(ENGINE.interpolate(plan, (state, state), [(0.3, state)] * 4))) / 4
        record(f"GIS candidate, of four on a line, {precision}", taken, "ms")

        def learn(plan: TritonPlan = plan) -> Any:
            logits, vjp = ENGINE.vjp(plan, state)
            leaf = logits.requires_grad_()
            (grad,) = torch.autograd.grad(functional.cross_entropy(leaf, plan.targets), leaf)
            return vjp(grad)

        key = f"LS evaluation, {precision}"
        torch.cuda.reset_peak_memory_stats()
        found[key] = measure(learn)
        note(key, found[key], find_bound(plan, precision, True))
        peak, needed = torch.cuda.max_memory_allocated(), ENGINE.memory(NET, EXTENT, mode="fit", precision=precision)
        ratio = (needed.total + 400 * NODES) / peak
        record(f"{key}: peak", peak / 2**30, "GiB", 0.85 < ratio < 1.15, f"counted / taken {ratio:.3f}")
        if precision == "float32":
            torch.backends.cuda.matmul.allow_tf32 = True
            record("LS evaluation, float32 with products in tf32", measure(learn), "ms")
            torch.backends.cuda.matmul.allow_tf32 = False
        if precision == "float32":
            profile("LS evaluation, float32", learn)
        del plan, learn
        plan = ENGINE.plan(NET, training, train=True, device=GPU, precision=precision)
        own = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
        adam = torch.optim.Adam(own.values(), lr=0.003)

        def train(plan: TritonPlan = plan, own: State = own, adam: torch.optim.Optimizer = adam) -> None:
            adam.zero_grad(set_to_none=True)
            logits = ENGINE.logits(plan, own, mode="train", dropout=CountedDropout(0.5, 7))
            functional.cross_entropy(logits, plan.targets).backward()
            adam.step()

        key = f"training epoch, {precision}"
        found[key] = measure(train)
        note(key, found[key], find_bound(plan, precision, True))
        if precision == "float32":
            torch.backends.cuda.matmul.allow_tf32 = True
            record("training epoch, float32 with products in tf32", measure(train), "ms")
            torch.backends.cuda.matmul.allow_tf32 = False
        del plan, train
        torch.cuda.empty_cache()
    return found


def note(what: str, taken: float, bound: float) -> None:
    """A time and its share of the bound."""
    record(what, taken, "ms", None, f"{taken / bound:.2f} x the bound of {bound:.1f} ms")


def time_unions(batch: Batch, state: State) -> None:
    """PLS steps on 4 of 32 parts, each union cut and planned ahead, from the graph on the GPU or in pinned memory."""
    size = -(-NODES // 32)
    drawn = [sorted(numpy_generator(0, turn).permutation(32)[:4].tolist()) for turn in range(24)]
    runs = [[(part * size, min(NODES, (part + 1) * size)) for part in chosen] for chosen in drawn]
    on_host = batch.to(torch.device("cpu"))
    for where in ("pinned", "resident"):
        baseline = torch.cuda.memory_allocated()
        held = HeldGraph.of(on_host, GPU, resident=where == "resident")
        union = held.cut(runs[0])
        entries = len(union.graph.adjacency.indices)
        sizes = f"{union.size} nodes, {entries} entries, {len(union.seeds)} seeds"
        record(f"cutting a union, {where}", measure(partial(held.cut, runs[0])), "ms", None, sizes)
        for precision in PRECISIONS:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

            def plan(chosen: Any, held: HeldGraph = held, precision: Precision = precision) -> TritonPlan:
                made = ENGINE.plan(NET, held.cut(chosen), device=GPU, precision=precision)
                ENGINE.expect_gradients(made)
                return made

            made: Iterator[TritonPlan] = loader._make_ahead(iter(runs), plan, GPU)
            times = []
            last = time.perf_counter()
            for each in made:
                step(each, state)
                del each
                times.append(1000 * (time.perf_counter() - last))
                last = time.perf_counter()
            key = f"PLS step 4/32, {precision}, {where}"
            record(key, median(times[4:]), "ms", None, f"{min(times[4:]):.1f} to {max(times[4:]):.1f}, planned ahead")
            peak = torch.cuda.max_memory_allocated() - baseline
            extent = Extent(union.size, entries, entries, len(union.seeds))
            needed = ENGINE.memory(NET, extent, mode="fit", precision=precision)
            counted = needed.total + sum(needed.plan.values()) + 4 * 100 * union.size
            counted += 4 * (100 * NODES + len(on_host.graph.adjacency.indices) + NODES) * (where == "resident")
            counted += 9 * NODES
            ratio = counted / peak
            record(f"{key}: peak", peak / 2**30, "GiB", 0.85 < ratio < 1.15, f"counted / taken {ratio:.3f}")
            if where == "resident":
                alone = plan(runs[0])
                note(f"{key}, plan there", measure(partial(step, alone, state)), find_bound(alone, precision, True))
                record(f"{key}: cutting and planning alone", measure(partial(plan, runs[0])), "ms")
                del alone
                profile(f"PLS step, {precision}", lambda plan=plan: step(plan(runs[0]), state))
        del held, union
        torch.cuda.empty_cache()


def step(plan: TritonPlan, state: State) -> float:
    """Loss and gradients, until the host has the loss."""
    logits, vjp = ENGINE.vjp(plan, state)
    leaf = logits.requires_grad_()
    loss = functional.cross_entropy(leaf, plan.targets)
    (grad,) = torch.autograd.grad(loss, leaf)
    vjp(grad)
    return float(loss.detach())


def profile(title: str, do: Any) -> None:
    """Where the time goes."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as found:
        do()
        torch.cuda.synchronize()
    table = found.key_averages().table(sort_by="cuda_time_total", row_limit=22, max_name_column_width=60)
    with open(OUT / "profile.txt", "a", encoding="utf-8") as file:
        file.write(f"==== {title}\n{table}\n")


def time_stock(  # noqa: C901 - tasks, ways and precisions
    indptr: Tensor, indices: Tensor, x: Tensor, batch: Batch, training: Batch, ours: dict[str, float]
) -> None:
    """PyG's GraphSAGE on its two best ways, float32 and bfloat16."""
    module: Any = GraphSAGE(100, 256, 3, 47).to(GPU)
    module.load_state_dict(NET.init_state(0))
    adjacent = torch.sparse_csr_tensor(
        indptr.long(), indices.long(), torch.ones(len(indices), device=GPU), (NODES, NODES), check_invariants=False
    )
    row = torch.arange(NODES, device=GPU).repeat_interleave(indptr.diff())
    index = EdgeIndex(
        torch.stack([indices.long(), row]), sparse_size=(NODES, NODES), sort_order="col", is_undirected=True
    )
    del row
    index.fill_cache_()
    ways = {"CSR": adjacent, "EdgeIndex": index}
    for precision, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        made = module.to(kind)
        features = x.to(kind)
        for way, edges in ways.items():
            if way == "EdgeIndex" and precision != "float32":
                continue
            if way == "CSR":
                edges = torch.sparse_csr_tensor(
                    edges.crow_indices(),
                    edges.col_indices(),
                    edges.values().to(kind),
                    edges.shape,
                    check_invariants=False,
                )

            def evaluate(edges: Any = edges) -> Tensor:
                with torch.no_grad():
                    return made(features, edges)[batch.seeds]  # noqa: B023

            def learn(edges: Any = edges, of: Batch = batch, dropout: float = 0.0) -> None:
                made.dropout.p = dropout  # noqa: B023
                made.zero_grad(set_to_none=True)  # noqa: B023
                loss = functional.cross_entropy(made(features, edges)[of.seeds].float(), of.targets)  # noqa: B023
                loss.backward()

            tasks = {
                "evaluation": evaluate,
                "LS evaluation": learn,
                "training epoch": lambda: learn(of=training, dropout=0.5),
            }
            for task, do in tasks.items():
                key = f"{task}, {precision}"

                def compare(do: Any = do, key: str = key, way: str = way) -> None:
                    made.train("training" in key)  # noqa: B023
                    torch.cuda.reset_peak_memory_stats()
                    taken = measure(do, most=3)
                    peak = torch.cuda.max_memory_allocated() / 2**30
                    ratio = f"{taken / ours[key]:.2f} x ours" if key in ours else ""
                    record(f"PyG by {way}: {key}", taken, "ms", None, f"{ratio}, peak {peak:.1f} GiB")

                if way == "CSR":
                    attempt(f"PyG by {way}: {key}", compare)
                elif task == "evaluation":
                    try:
                        compare()
                    except torch.OutOfMemoryError as error:
                        record(f"PyG by {way}: {key}", "no memory", "", None, str(error)[:70])


def main() -> None:
    """Everything, on one graph."""
    torch.backends.cuda.matmul.allow_tf32 = False
    measure_rates()
    indptr, indices = make_graph(NODES, PAIRS, 32)
    degree = indptr.diff()
    record(
        "entries", len(indices), "", None, f"largest degree {int(degree.max())}, empty rows {int((degree == 0).sum())}"
    )
    generator = torch.Generator(GPU).manual_seed(1)
    x = torch.randn(NODES, 100, device=GPU, generator=generator)
    order = torch.randperm(NODES, device=GPU, generator=generator)
    graph = Subgraph(x, Adjacency(indptr, indices))
    seeds, training = order[:VALIDATION].sort()[0], order[VALIDATION : VALIDATION + TRAINING].sort()[0]
    batch = Batch(graph, seeds, torch.randint(47, (len(seeds),), device=GPU, generator=generator))
    trained = replace(batch, seeds=training, targets=torch.randint(47, (TRAINING,), device=GPU, generator=generator))
    state = {name: tensor.to(GPU) for name, tensor in NET.init_state(0).items()}
    ours: dict[str, float] = {}
    attempt("ours", lambda: ours.update(time_ours(batch, trained, state)))
    attempt("unions", lambda: time_unions(batch, state))
    csr = Csr.of(indptr[:-1], indptr[1:], indices)
    attempt("stock", lambda: time_stock(indptr, indices, x, batch, trained, ours))
    attempt("cuSPARSE", lambda: time_cusparse(csr))
    attempt("tunings", lambda: compare_tunings(csr))


if __name__ == "__main__":
    main()
