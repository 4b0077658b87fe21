"""PyG's sets against PyG's own classes; nothing is fetched unless it may be, and damaged files are said."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from torch_geometric import datasets
from torch_geometric.transforms import NormalizeFeatures

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources import pyg
from gnnsoup_hpc.data.sources.pt import from_data
from gnnsoup_hpc.data.sources.raw import SourceContext, finish
from gnnsoup_hpc.data.sources.split import assign_roles
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import Role
from tests.data.sources import layouts
from tests.data.sources.layouts import read


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((urllib.request, "urlopen"), (socket, "getaddrinfo"), (socket, "create_connection")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("reached out"))


def test_a_class_with_names_lies_where_its_users_have_it(tmp_path: Path) -> None:
    layouts.amazon(tmp_path)
    theirs = datasets.Amazon(str(tmp_path), "Computers")
    for name in ("Computers", "computers"):
        found = read(f"pyg:{name}", tmp_path)
        assert np.array_equal(found.x[:], theirs[0].x.numpy())
        assert np.array_equal(found.y, theirs[0].y.numpy())
        assert np.array_equal(np.stack([found.source, found.destination]), theirs[0].edge_index.numpy())
        assert finish(found, assign_roles(found, GraphJob()), GraphJob()).classes == theirs.num_classes
        assert not found.splits
        assert [Path(file.path).name for file in found.files] == ["amazon_electronics_computers.npz"]


def test_a_class_without_names_has_a_folder_of_its_own(tmp_path: Path) -> None:
    _, holds = layouts.flickr(tmp_path)
    found = read("pyg:Flickr", tmp_path)
    theirs = datasets.Flickr(str(tmp_path / "Flickr"))[0]
    assert np.array_equal(found.x[:], theirs.x.numpy())
    assert np.array_equal(np.stack([found.source, found.destination]), theirs.edge_index.numpy())
    for part, role in (("train", Role.TRAIN), ("valid", Role.VALIDATION), ("test", Role.TEST)):
        assert found.splits["public"].ids(0)[role].tolist() == sorted(holds.split[part].tolist())


@pytest.mark.parametrize("about", pyg.SETS, ids=lambda about: about.name)
def test_every_set_of_the_table_is_one_of_pyg(about: pyg.PygDataset, tmp_path: Path) -> None:
    for name in (about.name, about.name.upper(), about.name.replace("-", "_")):
        with pytest.raises(GraphError, match=rf"^pyg:{about.name} is not in {tmp_path}/.*/raw, and --offline forbids"):
            pyg.read(name, GraphJob(root=str(tmp_path / "root")), SourceContext(tmp_path, offline=True))
    assert not (tmp_path / "root").exists()


def test_a_split_of_several_and_stopping_masks_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (4, 12))
    raw = tmp_path / "WikiCS/raw"
    raw.mkdir(parents=True)
    wiki = {
        "features": rng.normal(size=(12, 3)).tolist(),
        "labels": rng.integers(0, 2, 12).tolist(),
        "links": [[(node + 1) % 12] for node in range(12)],
        "train_masks": (masks == 0).tolist(),
        "val_masks": (masks == 1).tolist(),
        "stopping_masks": (masks == 2).tolist(),
        "test_mask": (rng.random(12) < 0.3).tolist(),
    }
    (raw / "data.json").write_text(json.dumps(wiki))
    found = read("pyg:WikiCS", tmp_path)
    assert (found.splits["public"].columns, found.notes) == (4, ("not used: stopping_mask",))
    for index in (0, 3):
        split = found.splits["public"].ids(index)
        assert split[Role.TRAIN].tolist() == np.flatnonzero(masks[index] == 0).tolist()
        assert split[Role.VALIDATION].tolist() == np.flatnonzero(masks[index] == 1).tolist()
        assert split[Role.TEST].tolist() == np.flatnonzero(wiki["test_mask"]).tolist()
    with pytest.raises(GraphError, match=r"graph.split_index = 4: pyg:WikiCS has 4 splits"):
        assign_roles(found, GraphJob(split_index=4))


@pytest.mark.parametrize(
    ("name", "message"),
    [("Yelp", "several labels each"), ("ppi", "several labels each"), ("Compters", "is known; there is: Computers")],
)
def test_sets_that_cannot_be_souped(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=message):
        read(f"pyg:{name}", tmp_path)


def test_offline_refuses_to_reach_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.Amazon, "download", lambda _: pytest.fail("reached out"))
    with pytest.raises(GraphError, match=r"pyg:Computers is not in .*--offline forbids"):
        read("pyg:Computers", tmp_path)


def test_a_download_says_so_first_and_appears_only_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, _ = layouts.amazon(tmp_path / "there")
    (archive,) = there.iterdir()
    said: list[str] = []
    asked = iter([False, True])

    def fetched(dataset: datasets.Amazon) -> None:
        assert said[-1].startswith("prepare: downloading pyg:Computers (0.0 MiB from https://")
        assert said[-1].endswith(f"amazon_electronics_computers.npz) to {raw}")
        assert socket.getdefaulttimeout() is not None
        whole, content = next(asked), archive.read_bytes()
        (Path(dataset.raw_dir) / archive.name).write_bytes(content if whole else content[:100])

    monkeypatch.setattr(datasets.Amazon, "download", fetched)
    monkeypatch.setattr(pyg, "fetch_size", lambda _: archive.stat().st_size)
    job = GraphJob(source="pyg:Computers", root=str(tmp_path / "here"))
    raw = tmp_path / "here/Computers/raw"
    with pytest.raises(GraphError, match=r"pyg:Computers cannot be downloaded .*the connection ended after 100 of"):
        pyg.read("Computers", job, SourceContext(tmp_path, False, said.append))
    assert not raw.exists()
    found = pyg.read("Computers", job, SourceContext(tmp_path, False, said.append))
    assert np.array_equal(found.x[:], read("pyg:Computers", tmp_path / "there").x[:])
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]
    assert len(said) == 2
    assert socket.getdefaulttimeout() is None


def test_one_raw_file_that_is_missing_is_missing(tmp_path: Path) -> None:
    folder, _ = layouts.flickr(tmp_path)
    (folder / "role.json").unlink()
    with pytest.raises(GraphError, match="--offline forbids"):
        read("pyg:Flickr", tmp_path)


def failing(error: Exception) -> Callable[[Any], None]:
    def download(dataset: Any) -> None:
        (Path(dataset.raw_dir) / "half.npz").write_bytes(b"half")
        raise error

    return download


@pytest.mark.parametrize("error", [OSError("no route"), aiohttp.ClientPayloadError("half"), TimeoutError()])
def test_a_failed_download_is_one_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.Flickr, "download", failing(error))
    with pytest.raises(GraphError, match=r"^pyg:Flickr cannot be downloaded \(.*put its files in .*/Flickr/raw$"):
        read("pyg:Flickr", tmp_path, offline=False)
    assert list((tmp_path / "Flickr").iterdir()) == []


def test_a_killed_download_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(dataset: Any) -> None:
        for path in dataset.raw_paths:
            Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.Flickr, "download", killed)
    with pytest.raises(KeyboardInterrupt):
        read("pyg:Flickr", tmp_path, offline=False)
    with pytest.raises(GraphError, match="--offline forbids"):
        read("pyg:Flickr", tmp_path)


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    job = GraphJob(root=str(tmp_path / "file"))
    with pytest.raises(GraphError, match=r"cannot be downloaded \(NotADirectoryError"):
        pyg.read("Flickr", job, SourceContext(tmp_path))


def test_where_the_one_file_of_a_set_is_fetched_from() -> None:
    class Fake:
        url, raw_paths = "https://host/{}.npz", ["root/cora/raw/cora.npz"]

    assert pyg.find_address(Fake()) == "https://host/cora.npz"
    Fake.url = "https://host/folder/"
    assert pyg.find_address(Fake()) == "https://host/folder/cora.npz"
    Fake.url = "https://host/cora.npz"
    assert pyg.find_address(Fake()) == "https://host/cora.npz"
    Fake.raw_paths = ["raw/a", "raw/b"]
    assert pyg.find_address(Fake()) is None
    Fake.url = "https://host/both.zip"
    assert pyg.find_address(Fake()) == "https://host/both.zip"


@pytest.mark.parametrize("how", ["truncated", "corrupted", "empty"])
def test_a_damaged_raw_file_is_said_in_one_line(how: str, tmp_path: Path) -> None:
    folder, _ = layouts.amazon(tmp_path)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "corrupted": whole[:300] + b"\0" * 600 + whole[900:],
        "empty": b"",
    }
    path.write_bytes(damaged[how])
    with pytest.raises(GraphError, match=r"^pyg:Computers: files in .*/raw are truncated or damaged") as caught:
        read("pyg:Computers", tmp_path)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    read("pyg:Computers", tmp_path)


@pytest.mark.parametrize("error", [AttributeError("gone"), ImportError("no module"), torch.cuda.OutOfMemoryError()])
def test_what_a_reader_raises_over_damage(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.amazon(tmp_path)

    def process(_: Any) -> None:
        raise error

    monkeypatch.setattr(datasets.Amazon, "process", process)
    with pytest.raises(GraphError, match=type(error).__name__):
        read("pyg:Computers", tmp_path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.amazon(tmp_path)

    def process(_: Any) -> None:
        raise PermissionError(13, "Permission denied", "computers.npz")

    monkeypatch.setattr(datasets.Amazon, "process", process)
    with pytest.raises(GraphError, match=r"pyg:Computers: computers.npz cannot be read$"):
        read("pyg:Computers", tmp_path)


class Trap:
    """What a processed file could do to whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["damaged", "malicious", "transformed", "stale"])
def test_pygs_own_cache_is_neither_read_nor_written(how: str, tmp_path: Path) -> None:
    folder, _ = layouts.amazon(tmp_path)
    expected = read("pyg:Computers", tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == ["raw"]
    datasets.Amazon(str(tmp_path), "Computers", pre_transform=NormalizeFeatures())
    processed = folder.parent / "processed/data.pt"
    if how == "damaged":
        processed.write_bytes(processed.read_bytes()[:200])
    elif how == "malicious":
        for path in processed.parent.iterdir():
            torch.save(Trap(tmp_path / "sprung"), path)
    elif how == "stale":
        later, _ = layouts.amazon(tmp_path / "later", seed=9)
        (path,) = folder.iterdir()
        path.write_bytes(next(later.iterdir()).read_bytes())
        os.utime(path, (1e9, 1e9))  # as `cp -p` of an older file
        expected = read("pyg:Computers", tmp_path / "later")
    before = {path: path.read_bytes() for path in processed.parent.iterdir()}
    found = read("pyg:Computers", tmp_path)
    assert np.array_equal(found.x[:], expected.x[:])
    assert np.array_equal(found.y, expected.y)
    assert found.sha256 == expected.sha256
    assert {path: path.read_bytes() for path in processed.parent.iterdir()} == before
    assert not (tmp_path / "sprung").exists()


def columns(masks: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    role = torch.randint(0, 3, (10, masks), generator=rng)
    names = ("train_mask", "val_mask", "test_mask")
    return {
        "x": torch.ones(10, 2),
        "y": torch.zeros(10, dtype=torch.long),
        "edge_index": torch.tensor([[0], [1]]),
        **{name: role == number for number, name in enumerate(names)},
    }


def test_one_of_several_splits_is_chosen() -> None:
    data = columns(4)
    data["test_mask"] = data["test_mask"][:, 0]  # as WikiCS has it: one test set for all splits
    for index in (0, 3):
        found = from_data(data, "it", (), "public", GraphJob()).splits["public"].ids(index)
        assert found[Role.TRAIN].tolist() == data["train_mask"][:, index].nonzero().flatten().tolist()
        assert found[Role.TEST].tolist() == data["test_mask"].nonzero().flatten().tolist()
    with pytest.raises(GraphError, match=r"graph.split_index = 4: it has 4 splits, counted from 0"):
        assign_roles(from_data(data, "it", (), "public", GraphJob()), GraphJob(split_index=4))
