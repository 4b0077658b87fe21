"""Which graph is this? Equal keys exactly where equal graphs are read; a path neither makes nor hides a change."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnnsoup_hpc.config import GraphJob, Job, PartitionJob, SyntheticJob
from gnnsoup_hpc.data import prepare as room
from gnnsoup_hpc.errors import GraphError, JobError, RunError
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs as tiny_runs
from tests import tiny
from tests.data.sources import layouts
from tests.io.test_files import resealed

NODES = 90


def arrays(seed: int = 0, nodes: int = NODES) -> dict[str, np.ndarray]:
    """A directed graph with self-loops and duplicates, on which every field has an effect."""
    holds = tiny.planted(seed, nodes)
    edges = holds["edge_index"]
    return holds | {"edge_index": np.concatenate([edges, edges[:, :20], np.tile(np.arange(9), (2, 1))], 1)}


def ids(nodes: int = NODES) -> dict[str, np.ndarray]:
    train, valid, test = np.split(np.random.default_rng(1).permutation(nodes), [nodes // 2, 3 * nodes // 4])
    return {"train_idx": train, "valid_idx": valid, "test_idx": test}


def npz(folder: Path) -> str:
    np.savez(folder / "graph.npz", **arrays(), **ids())
    return f"npz:{folder / 'graph.npz'}"


def npz_without_split(folder: Path) -> str:
    np.savez(folder / "graph.npz", **arrays())
    return f"npz:{folder / 'graph.npz'}"


def pt_of_ten_splits(folder: Path) -> str:
    data = {key: torch.from_numpy(value) for key, value in arrays().items()}
    masks = {name: np.isin(np.arange(NODES), found) for name, found in ids().items()}
    for name, mask in masks.items():
        columns = np.stack([np.roll(mask, 7 * shift) for shift in range(10)], 1)
        data[f"{name.removesuffix('_idx')}_mask"] = torch.from_numpy(columns)
    torch.save(data, folder / "graph.pt")
    return f"pt:{folder / 'graph.pt'}"


def ogb(folder: Path) -> str:
    layouts.ogb_tables(folder, "ogbn_arxiv", "time")
    return "ogb:ogbn-arxiv"


def pyg(folder: Path) -> str:
    layouts.amazon(folder)
    return "pyg:Computers"


def synthetic(folder: Path) -> str:
    return "synthetic:arxiv"


SOURCES: dict[str, Callable[[Path], str]] = {
    function.__name__: function for function in (npz, npz_without_split, pt_of_ten_splits, ogb, pyg, synthetic)
}
# Another value of every field. None: where the source lies, which is no part of what the graph is.
OTHER: dict[str, Any] = {
    "graph.source": None,
    "graph.root": None,
    "graph.undirected": "false",
    "graph.reverse": "true",
    "graph.self_loops": "add",
    "graph.duplicates": "refuse",
    "graph.split": "random",
    "graph.split_index": "3",
    "graph.split_seed": "5",
    "graph.train_share": "0.5",
    "graph.validation_share": "0.3",
    "graph.label_share": "0.5",
    "graph.features": "none",
    "graph.feature_layout": "sparse",
    "graph.edge_weight": "ignore",
    "graph.edge_attr": "ignore",
    "graph.synthetic.seed": "4",
    "graph.synthetic.scale": "0.003",
    "graph.synthetic.homophily": "0.5",
    "partition.parts": "5",
    "partition.seed": "2",
    "partition.imbalance": "400",
    "partition.edge_weight": None,  # which these sources have not: test_weights_cut_another_way, below
}
# What only checks: edges that the source has twice, and a column that it has not.
REFUSED = {(name, "graph.duplicates") for name in ("npz", "npz_without_split", "pt_of_ten_splits", "synthetic")}
REFUSED |= {(name, "graph.split_index") for name in ("npz", "npz_without_split", "ogb", "pyg", "synthetic")}
BASES = {
    "as it comes": [],
    "random split": ["graph.split=random"],
    "directed": ["graph.undirected=false"],
    "one part": ["partition.parts=1", "soup.pls.union=1"],
}
SMALL = [
    "graph.synthetic.scale=0.002",
    "graph.features=scale",
    "partition.parts=4",
    "soup.pls.union=1",
    "soup.distil.union=1",
]


def job_on(folder: Path, source: str, *overrides: str, runs: Path | None = None) -> Job:
    """A job on a source whose sets lie in `folder`."""
    job = tiny_runs.job_in(folder)
    return tiny_runs.jobs.load(
        str(folder / "tiny.toml"),
        [f"runs={runs or job.runs}", f"graph.source={source}", f"graph.root={folder}", *SMALL, *overrides],
    )


def made(job: Job) -> tuple[str, str, str]:
    """(key, hash of the graph, hash of its parts) of a job's graph, prepared anew in a folder of its own."""
    with tempfile.TemporaryDirectory() as runs:
        alone = job.model_copy(update={"runs": runs})
        room.prepare(alone, tiny_runs.ALONE, tiny_runs.QUIET)
        (shared,) = RunDir.of(alone).shared_graphs.glob("*.h5")
        with graph_store.open_graph(RunDir.of(alone).graph, alone) as graph:
            return shared.stem, graph.sha256, str(graph.cut["part_sha256"])


def test_every_field_is_under_the_law() -> None:
    tables = {"graph": GraphJob, "graph.synthetic": SyntheticJob, "partition": PartitionJob}
    known = {f"{table}.{key}" for table, section in tables.items() for key in section.model_fields}
    assert known - {"graph.synthetic"} == set(OTHER)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        (name, base)
        for name in SOURCES
        for base in BASES
        if base == "as it comes" or name in ("npz", "pt_of_ten_splits")
    ],
)
def test_a_field_changes_the_key_exactly_if_it_changes_what_is_read(name: str, base: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    key, *content = made(job_on(tmp_path, source, *BASES[base]))
    for field, value in OTHER.items():
        if value is None or (field == "partition.seed" and name in ("ogb", "pyg")):  # METIS cuts these alike
            continue
        job = job_on(tmp_path, source, *BASES[base], f"{field}={value}")
        if (name, field) in REFUSED and (field, base) != ("graph.split_index", "random split"):
            with pytest.raises(GraphError):
                made(job)
            continue
        other_key, *other = made(job)
        assert (other_key == key) == (other == content), (field, value)


def test_weights_cut_another_way(tmp_path: Path) -> None:
    edges = arrays()["edge_index"]
    weight = np.where(edges[0] % 2 == edges[1] % 2, 1.0, 0.001)
    np.savez(tmp_path / "weighted.npz", **arrays(), **ids(), weight=weight)
    source, use = f"npz:{tmp_path / 'weighted.npz'}", "graph.edge_weight=use"
    plain, by_weights = (made(job_on(tmp_path, source, use, f"partition.edge_weight={v}")) for v in ("ignore", "use"))
    assert plain[0] != by_weights[0]
    assert plain[1] == by_weights[1]
    assert plain[2] != by_weights[2]
    job, one = job_on(tmp_path, source, use), ("partition.parts=1", "partition.edge_weight=use")
    assert made(job_on(tmp_path, source, use, *one))[0] == made(job_on(tmp_path, source, use, one[0]))[0]
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    tiny_runs.begin_to_train(job)
    other = job_on(tmp_path, source, use, "partition.edge_weight=use")
    with pytest.raises(RunError, match=r"made with partition.edge_weight = 'ignore', the job says 'use'.* cut it anew"):
        room.prepare(other, tiny_runs.ALONE, tiny_runs.QUIET)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "synthetic"])
def test_equal_bytes_at_another_place_are_the_same_graph(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "moved" / "second"
    first.mkdir()
    source = SOURCES[name](first)
    key = made(job_on(first, source))[0]
    shutil.copytree(first, second)
    assert made(job_on(second, source.replace(str(first), str(second))))[0] == key


FIELDS = st.fixed_dictionaries({}, optional={k: st.just(v) for k, v in OTHER.items() if v and k != "graph.duplicates"})


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(one=FIELDS, other=FIELDS)
@pytest.mark.parametrize("name", ["npz", "pt_of_ten_splits"])
def test_equal_keys_mean_equal_graphs(name: str, one: dict[str, str], other: dict[str, str], tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    results = []
    for fields in (one, other):
        if name == "npz" and "graph.split_index" in fields and "graph.split" not in fields:
            fields = {key: value for key, value in fields.items() if key != "graph.split_index"}  # it has one split
        results.append(made(job_on(tmp_path, source, *(f"{key}={value}" for key, value in fields.items()))))
    assert (results[0][0] == results[1][0]) == (results[0][1:] == results[1][1:])


def listening() -> tuple[Log, list[str]]:
    """A log, and what is said to it."""
    log, said = Log(), list[str]()
    log.say = said.append  # type: ignore[method-assign]
    return log, said


def nodes_of(job: Job) -> int:
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        return graph.nodes


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Folders a and b, each with a graph.npz of its own: 90 and 60 nodes."""
    for name, seed, nodes in (("a", 0, 90), ("b", 1, 60)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "graph.npz", **arrays(seed, nodes))
    return tmp_path


@pytest.mark.parametrize("way", ["working folder", "home", "variable", "link"])
@pytest.mark.parametrize("gone", [False, True], ids=["both are there", "the first is gone"])
def test_one_text_that_names_two_files(way: str, gone: bool, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"working folder": "npz:graph.npz", "home": "npz:~/graph.npz", "variable": "npz:$HERE/graph.npz"}.get(way)

    def go(name: str) -> None:
        if way == "working folder":
            monkeypatch.chdir(two / name)
        monkeypatch.setenv("HOME" if way == "home" else "HERE", str(two / name))
        if way == "link":
            (two / "link").unlink(missing_ok=True)
            (two / "link").symlink_to(two / name)

    def job(run: str) -> Job:
        wanted = source or f"npz:{two / 'link' / 'graph.npz'}"
        return job_on(two, wanted, f"name={run}", runs=two / "runs")

    go("a")
    room.prepare(job("first"), tiny_runs.ALONE, tiny_runs.QUIET)
    go("b")
    if gone:
        shutil.rmtree(two / "a")
    room.prepare(job("second"), tiny_runs.ALONE, tiny_runs.QUIET)
    assert (nodes_of(job("first")), nodes_of(job("second"))) == (90, 60)
    tiny_runs.begin_to_train(job("first"))
    with pytest.raises(RunError, match=r"graph.npz.* content|graph.npz has changed"):
        room.prepare(job("first"), tiny_runs.ALONE, tiny_runs.QUIET)


def test_a_root_with_another_content_is_another_graph(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        layouts.ogb_tables(tmp_path / name, "ogbn_arxiv", "time", seed)
    jobs = [
        job_on(tmp_path / name, "ogb:ogbn-arxiv", f"name={name}", runs=tmp_path / "runs") for name in ("one", "two")
    ]
    for job in jobs:
        room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    assert len(list(RunDir.of(jobs[0]).shared_graphs.glob("*.h5"))) == 2
    tiny_runs.begin_to_train(jobs[0])
    moved = jobs[0].model_copy(update={"graph": jobs[0].graph.model_copy(update={"root": str(tmp_path / "two")})})
    with pytest.raises(RunError, match=r"was not made from .*two/ogbn_arxiv/raw/.*other content"):
        room.prepare(moved, tiny_runs.ALONE, tiny_runs.QUIET)


def test_other_content_of_the_same_size_and_date_is_noticed(tmp_path: Path) -> None:
    job = job_on(tmp_path, npz(tmp_path))
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    tiny_runs.begin_to_train(job)
    path = tmp_path / "graph.npz"
    before, whole = path.stat(), path.read_bytes()
    other = tmp_path / "other.npz"
    other.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    shutil.copy2(other, path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(RunError, match=r"graph.npz has changed since"):
        room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)


def test_a_source_that_was_touched_is_the_same(tmp_path: Path) -> None:
    job = job_on(tmp_path, npz(tmp_path))
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    os.utime(tmp_path / "graph.npz")
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)


def test_a_copied_source_shares_the_prepared_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = job_on(tmp_path, npz(tmp_path), "name=first")
    room.prepare(first, tiny_runs.ALONE, tiny_runs.QUIET)
    shutil.copy(tmp_path / "graph.npz", tmp_path / "copy.npz")
    monkeypatch.setattr(room, "partition_graph", lambda *_: pytest.fail("made what is there"))
    second = job_on(tmp_path, f"npz:{tmp_path / 'copy.npz'}", "name=second")
    room.prepare(second, tiny_runs.ALONE, tiny_runs.QUIET)
    assert RunDir.of(first).graph.samefile(RunDir.of(second).graph)


def test_a_run_goes_on_where_its_source_is_not(tmp_path: Path) -> None:
    """Copied to another cluster, for one; a new run has nothing to go on from."""
    job = job_on(tmp_path, npz(tmp_path))
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    (tmp_path / "graph.npz").unlink()
    log, said = listening()
    room.prepare(job, tiny_runs.ALONE, log)
    assert any("graph.npz is not there" in line and "used as it is" in line for line in said)
    mistyped = job_on(tmp_path, f"npz:{tmp_path / 'grpah.npz'}")
    with pytest.raises(RunError, match=r"no file .*grpah.npz, and .*graph.h5 was made from graph.npz: correct graph"):
        room.prepare(mistyped, tiny_runs.ALONE, tiny_runs.QUIET)
    with pytest.raises(GraphError, match=r"there is no file .*graph.npz"):
        room.prepare(job.model_copy(update={"name": "new"}), tiny_runs.ALONE, tiny_runs.QUIET)


def test_souping_looks_at_the_source_too(tmp_path: Path) -> None:
    job = tiny_runs.train_run(tmp_path)
    np.savez(tmp_path / "tiny.npz", **tiny.planted(seed=1))
    with pytest.raises(RunError, match=r"tiny.npz has changed since"):
        tiny_runs.soup_run(job)


def test_a_variable_that_is_not_set_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    for field, value in (("runs", "$NOT_SET/runs"), ("graph.source", "npz:$NOT_SET/x.npz")):
        job = tiny_runs.jobs.load(str(tiny.write_job(tmp_path)), [f"runs={tmp_path / 'runs'}", f"{field}={value}"])
        with pytest.raises(JobError, match=rf"{field} = .*: the environment variable NOT_SET is not set"):
            room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)


def test_fields_without_effect_are_said(tmp_path: Path) -> None:
    log, said = listening()
    fields = [
        "graph.root=elsewhere",
        "graph.split_seed=3",
        "graph.reverse=true",
        "graph.synthetic.seed=2",
        "partition.parts=1",
    ]
    room.prepare(job_on(tmp_path, npz(tmp_path), *fields, "partition.seed=7"), tiny_runs.ALONE, log)
    (line,) = (line for line in said if "without effect" in line)
    names = ("graph.root", "graph.split_seed", "graph.reverse", "graph.synthetic.seed", "partition.seed")
    assert all(name in line for name in names)
    assert "partition.parts" not in line


@pytest.mark.parametrize("same_run", [True, False], ids=["in one run", "in two runs"])
@pytest.mark.parametrize("field", ["edge_weight", "edge_attr", "duplicates"])
def test_what_is_refused_is_refused_of_a_graph_that_is_there(field: str, same_run: bool, tmp_path: Path) -> None:
    """Whoever prepared it first may have let it pass."""
    more = {} if field == "duplicates" else {field: np.arange(arrays()["edge_index"].shape[1]) / 7.0}
    np.savez(tmp_path / "graph.npz", **arrays(), **ids(), **more)
    source, passing = f"npz:{tmp_path / 'graph.npz'}", "merge" if field == "duplicates" else "ignore"
    job = job_on(tmp_path, source, f"graph.{field}={passing}")
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    strict = job_on(tmp_path, source, f"graph.{field}=refuse", *([] if same_run else ["name=other"]))
    for rank in (0, 1):
        with pytest.raises(GraphError, match=rf"graph.{field} = '(refuse|ignore)'"):
            room.prepare(strict, replace(tiny_runs.ALONE, rank=rank, size=2), tiny_runs.QUIET)
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)


def test_what_was_read_is_said_of_a_graph_that_is_there_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "graph.npz", **arrays(), **ids(), names=np.array(["a"]))
    job = job_on(tmp_path, f"npz:{tmp_path / 'graph.npz'}", "graph.split_seed=3")
    every = []
    for name in ("first", "first", "second"):
        log, said = listening()
        room.prepare(job.model_copy(update={"name": name}), tiny_runs.ALONE, log)
        every.append([line for line in said if "split: stored ids" in line or "not used" in line or "without" in line])
    assert len(every[0]) == 3
    assert every[0] == every[1] == every[2]


def of_version_1(path: Path, job: Job) -> None:
    """Make a graph.h5 what the first version would have written: [graph] and [partition] as asked for, no facts."""
    import json

    import h5py

    graph, cut = job.graph.model_dump(mode="json"), job.partition.model_dump(mode="json")
    unused = {"edge_weight", "edge_attr", "feature_layout", "root", "synthetic"}
    unused |= set() if job.graph.split in ("random", "auto") else {"split_seed", "train_share", "validation_share"}
    unused |= set() if job.graph.split in ("public", "auto") else {"split_index"}
    kept = {key: value for key, value in graph.items() if key not in unused}
    with h5py.File(path, "r+") as file:
        attributes = file["provenance"].attrs
        attributes["sections"] = json.dumps({"graph": kept, "partition": cut})
        for name in ("used", "facts"):
            del attributes[name]
        listed = [
            {key: value for key, value in source.items() if key != "changed_ns"}
            for source in json.loads(file["provenance/source_files"].asstr()[()])
        ]
        for name, value in (("source_files", json.dumps(listed)), ("notes", None)):
            del file["provenance"][name]
            if value is not None:
                file["provenance"].create_dataset(name, data=value, dtype=h5py.string_dtype())
    resealed(path)


def test_a_run_of_the_first_version_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_on(tmp_path, npz(tmp_path), "name=old")
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    tiny_runs.begin_to_train(job)
    of_version_1(RunDir.of(job).graph, job)
    with monkeypatch.context() as patch:
        patch.setattr(room, "partition_graph", lambda *_: pytest.fail("made what is there"))
        log, said = listening()
        room.prepare(job, tiny_runs.ALONE, log)
        assert any("made by an earlier version, which passed over" in line for line in said)
        shutil.move(tmp_path / "graph.npz", tmp_path / "moved.npz")
        moved = job_on(tmp_path, f"npz:{tmp_path / 'moved.npz'}", "name=old")
        room.prepare(moved, tiny_runs.ALONE, tiny_runs.QUIET)
    with pytest.raises(RunError, match=r"graph.features = 'scale', the job says 'none'"):
        room.prepare(tiny_runs.change_job(moved, "graph.features=none"), tiny_runs.ALONE, tiny_runs.QUIET)
    with pytest.raises(RunError, match=r"graph.feature_layout = 'auto', the job says 'sparse'"):
        room.prepare(tiny_runs.change_job(moved, "graph.feature_layout=sparse"), tiny_runs.ALONE, tiny_runs.QUIET)
    np.savez(tmp_path / "moved.npz", **arrays(seed=1))
    with pytest.raises(RunError, match=r"was not made from .*moved.npz"):
        room.prepare(moved, tiny_runs.ALONE, tiny_runs.QUIET)


def test_a_new_run_takes_no_graph_of_the_first_version(tmp_path: Path) -> None:
    """It may have drawn a random split over masks that it passed over."""
    job = job_on(tmp_path, npz(tmp_path), "name=old")
    room.prepare(job, tiny_runs.ALONE, tiny_runs.QUIET)
    (shared,) = RunDir.of(job).shared_graphs.glob("*.h5")
    of_version_1(shared, job)
    shared.rename(shared.with_name("npz-of-then.h5"))
    new = job.model_copy(update={"name": "new"})
    room.prepare(new, tiny_runs.ALONE, tiny_runs.QUIET)
    assert not RunDir.of(job).graph.samefile(RunDir.of(new).graph)
    with graph_store.open_graph(RunDir.of(new).graph, new) as graph:
        assert graph.split == "stored ids"


def test_columns_of_stored_splits_of_the_first_version_are_told_apart(tmp_path: Path) -> None:
    """It left split_index out of what it asked for, and gave all ten runs the first one's graph."""
    source = pt_of_ten_splits(tmp_path)
    third = job_on(tmp_path, source, "graph.split=stored", "graph.split_index=3")
    room.prepare(third, tiny_runs.ALONE, tiny_runs.QUIET)
    tiny_runs.begin_to_train(third)
    of_version_1(RunDir.of(third).graph, third)
    room.prepare(third, tiny_runs.ALONE, tiny_runs.QUIET)
    with pytest.raises(RunError, match=r"graph.split_index = 3, the job says 0"):
        room.prepare(job_on(tmp_path, source, "graph.split=stored"), tiny_runs.ALONE, tiny_runs.QUIET)
