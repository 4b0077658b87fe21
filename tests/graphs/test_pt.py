"""A saved PyG Data: read as it was saved, and nothing but tensors is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.records import Role
from tests.graphs.layouts import read
from tests.graphs.test_pyg import columns


def saved(folder: Path, content: Any) -> str:
    path = folder / "odd name.pt"
    torch.save(content, path)
    return f"pt:{path}"


@pytest.mark.parametrize("kind", ["Data", "dictionary"])
def test_data_and_dictionaries_are_read(kind: str, tmp_path: Path) -> None:
    content = {name: value[:, 0] if "mask" in name else value for name, value in columns(1).items()}
    content["x"] = torch.arange(20.0).reshape(10, 2)
    content["edge_index"] = torch.tensor([[0, 1, 9], [1, 2, 9]])
    found = read(saved(tmp_path, Data(**content) if kind == "Data" else content), tmp_path)
    assert np.array_equal(found.x[:], content["x"].numpy())
    assert found.source.tolist() == [0, 1, 9]
    assert found.destination.tolist() == [1, 2, 9]
    stored = found.splits["stored"]
    assert stored[Role.VALIDATION].tolist() == content["val_mask"].nonzero().flatten().tolist()
    assert len(found.files) == 1


def test_ids_in_place_of_masks(tmp_path: Path) -> None:
    content: dict[str, Any] = {name: value for name, value in columns(1).items() if "mask" not in name}
    content |= {"train_idx": torch.tensor([3, 1]), "valid_idx": torch.tensor([0]), "test_idx": torch.tensor([2])}
    stored = read(saved(tmp_path, content), tmp_path).splits["stored"]
    assert [stored[role].tolist() for role in (Role.TRAIN, Role.VALIDATION, Role.TEST)] == [[3, 1], [0], [2]]


def test_without_masks_there_is_no_stored_split(tmp_path: Path) -> None:
    content = {name: value for name, value in columns(1).items() if "mask" not in name}
    assert not read(saved(tmp_path, content), tmp_path).splits


class Trap:
    """What a file could do to whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    source = saved(tmp_path, {"x": Trap(tmp_path / "sprung")})
    with pytest.raises(GraphError, match=r"which is not unpickled, .*torch.save\(data.to_dict") as caught:
        read(source, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_a_truncated_file(cut: int, tmp_path: Path) -> None:
    source = saved(tmp_path, columns(1))
    path = Path(source.removeprefix("pt:"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(GraphError, match=r"odd name.pt: ") as caught:
        read(source, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "the attribute 'x' is missing; it has: edge_index, test_mask"),
        ({"y": None}, "the attribute 'y' is missing"),
        ({"edge_index": [[0], [1]]}, "edge_index is a list; expected a tensor"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.long)}, r"edge_index .*\(3, 2\)"),
        ({"y": torch.zeros(10, 4)}, "several labels a node"),
        ({"y": torch.zeros(10)}, "expected classes as integers"),
        ({"train_mask": torch.ones(10, 2, 2)}, r"train_mask holds float32 of shape \(10, 2, 2\)"),
    ],
)
def test_tensors_that_are_not_right(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {name: value for name, value in (columns(1) | change).items() if value is not None}
    with pytest.raises(GraphError, match=message):
        read(saved(tmp_path, content), tmp_path)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="holds a Tensor"):
        read(saved(tmp_path, torch.ones(3)), tmp_path)
    with pytest.raises(GraphError, match="there is no file"):
        read("pt:nowhere.pt", tmp_path)
