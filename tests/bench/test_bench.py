"""The benchmark: the stock path is PyG's and agrees with ours, children and their failures, the table and its JSON."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.utils import to_torch_csr_tensor

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.bench import child, grid, roofline, stock, table
from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.arguments import TASKS, UNIONS, Options
from gnnsoup_hpc.bench.grid import Row
from gnnsoup_hpc.bench.process import ChildFailedError, Figures, run_child
from gnnsoup_hpc.bench.task import BatchName, Cell, Order, TaskName, Way
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import choose_engine
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.profiling import host_bytes
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.mixing import ParameterMatrix, gradient, mix
from gnnsoup_hpc.types import Role
from tests import kinds, runs
from tests.arbitrary import normal, random_structure
from tests.once import make_once

KINDS = [("sage", 1), ("gcn", 1), ("gat", 2)]
GRAPH = random_structure(30, 90)  # directed, with a self-loop and a node that has no edge
OPTIONS = Options(repeats=1, threads=1, timeout=600.0, rounds=1)
FULL = Options(unions=UNIONS)
RATES = {"float32": roofline.Rates(1e10, 1e11)}
CORES = {"cpu": "some", "cores": 2, "threads": 1, "versions": {"torch": "2"}, "date": "2026-01-01T00:00:00+00:00"}

every_kind = pytest.mark.parametrize(("kind", "heads"), KINDS, ids=[kind for kind, _ in KINDS])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The tiny job with its graph.h5, in 8 parts."""
    return runs.prepare_run(tmp_path_factory.mktemp("bench"))


@contextmanager
def opened(job: Job) -> Iterator[GraphFile]:
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        yield graph


def cell_of(job: Job, **other: Any) -> Cell:
    fields: dict[str, Any] = {
        "model": "sage",
        "task": "evaluation",
        "hidden": 8,
        "ingredients": 3,
        "union": 2,
        "granularity": 3,
    }
    return Cell("tiny", str(RunDir.of(job).graph.absolute()), **(fields | other))


def values(job: Job, cell: Cell, way: Way, times: int = 3) -> list[float]:
    with tasks.open_graph(cell) as graph:
        task = child.make_task(cell, way, graph)
        task.prepare()
        return [task.once() for _ in range(times)]


@every_kind
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_stock_is_our_architecture(small: Job, kind: str, heads: int, norm: str) -> None:
    with opened(small) as graph:
        net = Architecture(kind, 3, graph.features, 8, graph.classes, heads, norm)
        held = stock.load_whole(graph, net)
        with torch.no_grad():
            theirs = stock.compute_logits(stock.make_module(net), net.init_state(0), held)
            expected = net.forward(net.init_state(0), loader.load_whole(graph, Role.VALIDATION).graph)
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=1e-5)


@every_kind
def test_stock_adjacency_gives_what_plain_pyg_gives(kind: str, heads: int) -> None:
    """On any graph: one with self-loops, with edges of one direction, with a node that has none."""
    net = Architecture(kind, 3, 5, 8, 3, heads)
    x, state = normal(0, GRAPH.nodes, 5, kind=torch.float32), net.init_state(0)
    plain = net.to_module().eval()
    plain.load_state_dict(state, strict=True)
    held = stock.StockHeld(
        x, stock.make_adjacency(net.aggregation, GRAPH.edge_index, GRAPH.nodes), torch.arange(2), torch.zeros(2)
    )
    with torch.no_grad():
        torch.testing.assert_close(
            stock.compute_logits(stock.make_module(net), state, held), plain(x, GRAPH.edge_index), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("labels", ["multilabel", "regression"])
@pytest.mark.parametrize("name", ["evaluation", "ls_epoch", "pls_step"])
def test_both_ways_judge_labels_of_other_kinds(
    labels: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_once(tmp_path_factory, f"bench-{labels}", lambda folder: kinds.prepare_run(folder, labels))
    job = runs.load_job(folder)
    cell = cell_of(job, model="sage", heads=1, task=name)
    assert values(job, cell, "ours") == pytest.approx(values(job, cell, "stock"), rel=1e-4, abs=1e-4)


def test_stock_sage_on_the_whole_graph_has_the_structure_of_its_edge_index(small: Job) -> None:
    with opened(small) as graph:
        held = stock.load_whole(graph, Architecture("sage", 2, graph.features, 8, graph.classes))
        indptr, indices = (torch.from_numpy(array) for array in tasks.read_structure(graph))
        row = torch.arange(graph.nodes).repeat_interleave(indptr.diff())
        expected = to_torch_csr_tensor(torch.stack([row, indices]), size=(graph.nodes, graph.nodes))
    assert torch.equal(held.adjacency.to_dense(), expected.to_dense())


@every_kind
@pytest.mark.parametrize("name", TASKS)
def test_both_ways_return_the_same(
    small: Job, kind: str, heads: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, of which each draws masks of its own."""
    monkeypatch.setattr(tasks, "DROPOUT", 0.0)
    cell = cell_of(small, model=kind, heads=heads, task=name)
    assert values(small, cell, "ours") == pytest.approx(values(small, cell, "stock"), rel=1e-5, abs=1e-5)


@every_kind
@pytest.mark.parametrize("batch", ["full", "cluster"])
def test_both_ways_train_alike(small: Job, kind: str, heads: int, batch: BatchName) -> None:
    cell = cell_of(small, model=kind, heads=heads, task="train_epoch", batch=batch, norm="layer")
    ours, stock = (values(small, cell, way, 30) for way in ("ours", "stock"))
    assert ours[0] == pytest.approx(stock[0], rel=0.2)
    for losses in (ours, stock):
        assert losses[-1] < losses[0]


@every_kind
def test_a_step_moves_the_raw_alphas(small: Job, kind: str, heads: int) -> None:
    first, second, _ = values(small, cell_of(small, model=kind, heads=heads, task="ls_epoch"), "stock")
    assert second != first


@every_kind
def test_gradients_of_the_raw_alphas_are_ours(small: Job, kind: str, heads: int) -> None:
    """A loss hardly shows a wrong gradient: it is compared itself."""
    cell = cell_of(small, model=kind, heads=heads)
    theirs, mine = tasks.draw_start(cell).requires_grad_(), tasks.draw_start(cell).requires_grad_()
    with opened(small) as graph:
        net = tasks.make_architecture(cell, graph)
        states, held, view = (
            tasks.make_states(cell, net),
            stock.load_whole(graph, net),
            loader.load_whole(graph, Role.VALIDATION),
        )
    scores = stock.compute_logits(stock.make_module(net), stock.mix(states, theirs), held)[held.nodes]
    functional.cross_entropy(scores, held.labels).backward()
    matrix = ParameterMatrix.of(net, range(cell.ingredients), states, torch.device("cpu"))
    alpha, engine = mine.softmax(1), choose_engine(net, torch.device("cpu"))
    logits, vjp = engine.vjp(engine.plan(net, view), mix(matrix, alpha.detach(), "layer"))
    (grad,) = torch.autograd.grad(functional.cross_entropy(logits.requires_grad_(), view.targets), logits)
    alpha.backward(gradient(matrix, vjp(grad), "layer").to(alpha))
    assert theirs.grad is not None
    torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-4, atol=1e-4 * float(theirs.grad.abs().max()))


def test_structure_is_read_in_blocks(small: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(small) as graph:
        whole = tasks.read_structure(graph)
        monkeypatch.setattr(tasks, "BLOCK_NODES", 7)
        for array, expected in zip(tasks.read_structure(graph), whole, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_an_order_survives_its_json(small: Job) -> None:
    order = Order(cell_of(small, task="pls_step"), "ours", "memory", repeats=3, threads=2, memory_bytes=5)
    assert tasks.read_order(json.dumps(asdict(order))) == order


def test_there_is_no_stock_bfloat16(small: Job) -> None:
    with opened(small) as graph, pytest.raises(RunError, match="float32"):
        stock.StockTask(cell_of(small, precision="bfloat16"), graph)


def test_a_time_pass_counts_its_repeats(small: Job) -> None:
    result = run_child(Order(cell_of(small), "ours", "time", repeats=2, threads=1), timeout=600.0)
    assert len(result["seconds"]) == 2
    assert len(result["values"]) == 3
    assert result["baseline_bytes"] > 0


@pytest.mark.parametrize("way", ["ours", pytest.param("stock", marks=pytest.mark.slow)])
def test_a_memory_pass_has_its_baseline_inside_its_peak(small: Job, way: Way) -> None:
    if not math.isfinite(host_bytes("VmHWM")):
        pytest.skip("no /proc/self/status")
    result = run_child(Order(cell_of(small, task="pls_step"), way, "memory", repeats=1, threads=1), timeout=600.0)
    assert 0 < result["baseline_bytes"] <= result["prepare_peak_bytes"] <= result["peak_bytes"]
    assert result["peak_bytes"] - result["baseline_bytes"] < 30e6  # of a small graph: no step pays for an import


def test_a_failing_child_is_one_line(small: Job, tmp_path: Path) -> None:
    said: list[str] = []
    broken = replace(cell_of(small), graph="broken", graph_h5=str(tmp_path / "none.h5"))
    (row,) = grid.run_orders([broken], OPTIONS, said.append)
    failures = [line for line in said if "broken: sage evaluation" in line and "failed" in line]
    assert len(failures) == len(said) == 2  # once a way, then that way is given up
    assert all("\n" not in line and "none.h5" in line for line in failures)
    assert row.ours.errors
    assert row.stock.errors
    assert row.ours.times == []


def test_too_little_memory_is_one_line(small: Job) -> None:
    order = Order(cell_of(small, hidden=8192, ingredients=8), "ours", "time", 1, 1, memory_bytes=1 << 30)
    with pytest.raises(ChildFailedError, match="memory") as failure:
        run_child(order, timeout=600.0)
    assert "\n" not in str(failure.value)


def test_a_child_that_takes_too_long_is_one_line(small: Job) -> None:
    with pytest.raises(ChildFailedError, match="not done after"):
        run_child(Order(cell_of(small), "ours", "time", 1, 1), timeout=0.01)


def test_the_childs_own_error_is_one_line(
    small: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = Order(cell_of(small, precision="bfloat16"), "stock", "time", 1, torch.get_num_threads())
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asdict(order))))
    assert child.main() == RunError.exit_code
    assert capsys.readouterr().err.count("\n") == 1


def test_ways_take_turns(small: Job) -> None:
    ordered = list(grid.list_orders(cell_of(small), replace(OPTIONS, rounds=2)))
    assert [order.way for order in ordered if order.passing == "time"] == ["stock", "ours", "ours", "stock"]
    assert sorted(order.way for order in ordered if order.passing == "memory") == ["ours", "stock"]


def test_bfloat16_is_compared_with_stock_float32(small: Job) -> None:
    ordered = list(grid.list_orders(cell_of(small, precision="bfloat16"), OPTIONS))
    assert {(order.way, order.cell.precision) for order in ordered} == {("ours", "bfloat16"), ("stock", "float32")}


def test_grids(tmp_path: Path) -> None:
    quick, full = grid.list_cells("g", tmp_path, Options()), grid.list_cells("g", tmp_path, FULL)
    assert len(quick) == len(set(quick)) == 15
    assert set(quick) < set(full)
    assert len(full) == len(set(full)) == 15 + 3 * 2
    assert {(cell.model, cell.hidden // cell.heads) for cell in full} == {("sage", 256), ("gcn", 256), ("gat", 256)}


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    memory = {"peak_bytes": 3e6, "prepare_peak_bytes": 2e6, "baseline_bytes": 1e6}
    good, other = (
        Figures([{"seconds": [1.0, 2.0, 4.0], "prepare_seconds": 0.5, "values": [value]}], memory)
        for value in (0.25, 0.5)
    )
    bad = Figures(errors=["time: ended by SIGKILL"])
    return [Row(cell, good, other if number else bad) for number, cell in enumerate(cells)]


def test_the_table_has_every_cell_and_the_json_round_trips(tmp_path: Path) -> None:
    cells = [*grid.list_cells("one", tmp_path, FULL), *grid.list_cells("two", tmp_path, FULL)]
    rates = RATES | {"bfloat16": roofline.Rates(1e10, 1e11)}
    results = table.make_document(CORES, rates, rows_of(cells), [0.5] * len(cells))
    again = json.loads(json.dumps(results, allow_nan=False))
    assert again == results
    text = table.show_document(again)
    assert text == table.show_document(results)
    one, two = text.split("### one")[1].split("### two")
    for cell in cells:
        part = one if cell.graph == "one" else two
        assert part.count(f"| {cell.model} {cell.title} |") == 1, cell.name
    assert "ended by SIGKILL" in text
    assert f"{cells[1].name}: ours and stock differ" in text


def test_figures_of_the_document(tmp_path: Path) -> None:
    cells = grid.list_cells("g", tmp_path, Options())[:2]
    failed, sound = table.make_document(CORES, RATES, rows_of(cells), [0.5, 0.5])["cells"]
    assert (sound["ours"]["median"], sound["ours"]["min"], sound["ours"]["spread"]) == (2.0, 1.0, 1.5)
    assert (sound["speed_ratio"], sound["memory_ratio"], sound["over_bound"]) == (1.0, 1.0, 4.0)
    assert (failed["speed_ratio"], failed["memory_ratio"], failed["difference"]) == (None, None, None)
    assert "failed" in table.show_document(table.make_document(CORES, RATES, rows_of(cells), [0.5, 0.5]))


def test_receptive_sizes_of_a_path() -> None:
    row, column = np.array([0, 1, 2]), np.array([1, 2, 3])  # 0 <- 1 <- 2 <- 3
    asked = np.array([True, False, False, False])
    sizes = roofline.count_receptive(row, column, asked, 2)
    assert sizes == [roofline.LayerSize(2, 3, 2), roofline.LayerSize(1, 2, 1)]


def test_work_grows_from_evaluation_to_epoch(small: Job) -> None:
    for kind, heads in KINDS:
        cell = cell_of(small, model=kind, heads=heads)
        with opened(small) as graph:
            (layers,) = roofline.count_layers(cell, graph)
            net = tasks.make_architecture(cell, graph)
            one = roofline.count_work(cell, net, layers)
            epoch = roofline.count_work(replace(cell, task="ls_epoch"), net, layers)
            gis = roofline.count_work(replace(cell, task="gis_step"), net, layers)
            union = roofline.count_layers(replace(cell, task="pls_step"), graph, samples=3)
        assert len(union) == 3
        assert all(part[0].columns < graph_nodes for part in union for graph_nodes in [300])
        assert one[0] < epoch[0] < 3 * one[0]
        assert gis[0] == cell.granularity * one[0]
        assert one[1] < epoch[1]


def test_the_bound_is_the_slower_of_the_two() -> None:
    assert roofline.bound_seconds(np.array([2e11, 1e10]), RATES["float32"]) == 2.0
    assert roofline.bound_seconds(np.array([1e11, 3e10]), RATES["float32"]) == 3.0


def test_the_whole_command(
    small: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_excepthook: None,
) -> None:
    """One cell a model kind would do; the command is the user's, the machine's rates are made up."""
    job = tmp_path / "job.toml"
    job.write_text(small.to_toml(), encoding="utf-8")
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: RATES["float32"])
    monkeypatch.setattr(grid, "list_cells", lambda *_: [cell_of(small)])
    out = tmp_path / "bench.json"
    words = ["--graph", str(job), "--threads", "1", "--repeats", "1", "--rounds", "1", "--output", str(out)]
    assert main(["bench", *words]) == 0
    printed = capsys.readouterr()
    results = json.loads(out.read_text(encoding="utf-8"))
    assert table.show_document(results) == printed.out.strip()
    assert "[1/1] tiny: sage evaluation, stock, time" in printed.err
    assert results["cells"][0]["difference"] < 1e-3


@pytest.mark.parametrize("task", ["evaluation", "ls_epoch", "pls_step"])
def test_ours_in_bfloat16_is_nearly_what_it_is_in_float32(small: Job, task: TaskName) -> None:
    rounded = values(small, cell_of(small, task=task, precision="bfloat16"), "ours")[0]  # later steps start elsewhere
    assert rounded == pytest.approx(values(small, cell_of(small, task=task), "ours")[0], rel=0.03, abs=0.03)


def test_stock_sage_has_the_gradient_of_its_loss() -> None:
    """With int32 indices it has not, on graphs of more than a few nodes: PyTorch's gradient of a mean is wrong then."""
    nodes, entries = 3000, 40_000
    ends = torch.randint(nodes, (2, entries), generator=torch.Generator().manual_seed(0))
    net = Architecture("sage", 2, 5, 8, 3)
    x, labels = normal(0, nodes, 5, kind=torch.float32), torch.arange(nodes) % 3
    held = stock.StockHeld(x, stock.make_adjacency(net.aggregation, ends, nodes), torch.arange(nodes), labels)
    states = [net.init_state(seed) for seed in range(3)]
    raw = torch.zeros(2, 3, dtype=torch.float64)

    def loss(raw_LN: Tensor) -> Tensor:
        scores = stock.compute_logits(stock.make_module(net), stock.mix(states, raw_LN), held)
        return functional.cross_entropy(scores, labels)

    mine = raw.clone().requires_grad_()
    loss(mine).backward()
    assert mine.grad is not None
    for layer, ingredient in product(range(2), range(3)):
        step = torch.zeros_like(raw)
        step[layer, ingredient] = 0.05
        with torch.no_grad():
            slope = float(loss(raw + step) - loss(raw - step)) / 0.1
        assert float(mine.grad[layer, ingredient]) == pytest.approx(slope, rel=0.03, abs=3e-4)
