"""PyG's sets against PyG's own classes; nothing is fetched unless it may be, and damaged files are said."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric import datasets

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs import pyg
from gnnsoup_hpc.graphs.desk import Desk
from gnnsoup_hpc.graphs.pt import from_data
from gnnsoup_hpc.job import GraphJob
from gnnsoup_hpc.records import Role
from tests.graphs import layouts
from tests.graphs.layouts import read


def test_a_class_with_names_lies_where_its_users_have_it(tmp_path: Path) -> None:
    layouts.amazon(tmp_path)
    theirs = datasets.Amazon(str(tmp_path), "Computers")
    for name in ("Computers", "computers"):
        found = read(f"pyg:{name}", tmp_path)
        assert np.array_equal(found.x[:], theirs[0].x.numpy())
        assert np.array_equal(found.y, theirs[0].y.numpy())
        assert np.array_equal(np.stack([found.source, found.destination]), theirs[0].edge_index.numpy())
        assert found.classes == theirs.num_classes
        assert not found.splits
        assert [Path(file.path).name for file in found.files] == ["amazon_electronics_computers.npz"]


def test_a_class_without_names_has_a_folder_of_its_own(tmp_path: Path) -> None:
    _, holds = layouts.flickr(tmp_path)
    found = read("pyg:Flickr", tmp_path)
    theirs = datasets.Flickr(str(tmp_path / "Flickr"))[0]
    assert np.array_equal(found.x[:], theirs.x.numpy())
    assert np.array_equal(np.stack([found.source, found.destination]), theirs.edge_index.numpy())
    for part, role in (("train", Role.TRAIN), ("valid", Role.VALIDATION), ("test", Role.TEST)):
        assert found.splits["public"][role].tolist() == sorted(holds.split[part].tolist())


def test_every_set_of_the_table_is_a_class_of_pyg() -> None:
    for name, known in pyg.SETS.items():
        assert hasattr(datasets, known.kind), name


@pytest.mark.parametrize(
    ("name", "message"),
    [("Yelp", "several labels each"), ("ppi", "several labels each"), ("Compters", "the nearest are: Computers")],
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
        assert said[-1].startswith("prepare: downloading pyg:Computers (")
        whole, content = next(asked), archive.read_bytes()
        (Path(dataset.raw_dir) / archive.name).write_bytes(content if whole else content[:100])
        if not whole:
            raise OSError("the connection ended")

    monkeypatch.setattr(datasets.Amazon, "download", fetched)
    monkeypatch.setattr(pyg, "_size", lambda _: "1.0 MiB")
    job = GraphJob(source="pyg:Computers", root=str(tmp_path / "here"))
    raw = tmp_path / "here/Computers/raw"
    with pytest.raises(GraphError, match=r"pyg:Computers cannot be downloaded to .*the connection ended"):
        pyg.read("Computers", job, Desk(tmp_path, False, said.append))
    assert not list(raw.iterdir())
    found = pyg.read("Computers", job, Desk(tmp_path, False, said.append))
    assert np.array_equal(found.x[:], read("pyg:Computers", tmp_path / "there").x[:])
    assert [path.name for path in raw.parent.iterdir() if "part" in path.name] == []


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
    with pytest.raises(GraphError, match=r"PyG cannot read pyg:Computers .*truncated or damaged; remove") as caught:
        read("pyg:Computers", tmp_path)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    read("pyg:Computers", tmp_path)


def test_a_damaged_processed_file_is_said(tmp_path: Path) -> None:
    layouts.amazon(tmp_path)
    read("pyg:Computers", tmp_path)
    (processed,) = tmp_path.rglob("data.pt")
    processed.write_bytes(processed.read_bytes()[:200])
    with pytest.raises(GraphError, match="truncated or damaged; remove"):
        read("pyg:Computers", tmp_path)


def test_raw_files_that_changed_are_processed_again(tmp_path: Path) -> None:
    folder, _ = layouts.amazon(tmp_path)
    before = read("pyg:Computers", tmp_path)
    other, _ = layouts.amazon(tmp_path / "other", seed=9)
    (path,) = folder.iterdir()
    path.write_bytes(next(other.iterdir()).read_bytes())
    later = time.time() + 5
    os.utime(path, (later, later))
    after = read("pyg:Computers", tmp_path)
    assert not np.array_equal(before.y, after.y)
    assert before.sha256 != after.sha256


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
        found = from_data(data, "it", (), "public", GraphJob(split_index=index)).splits["public"]
        assert found[Role.TRAIN].tolist() == data["train_mask"][:, index].nonzero().flatten().tolist()
        assert found[Role.TEST].tolist() == data["test_mask"].nonzero().flatten().tolist()
    with pytest.raises(GraphError, match=r"graph.split_index = 4: it has 4 splits, counted from 0"):
        from_data(data, "it", (), "public", GraphJob(split_index=4))
