"""A soup leaves for PyG: strict loading into its own class, and exactly the accuracy that the report states."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from gnnsoup_hpc.io.model import read_model
from tests.faults import kit


@pytest.mark.parametrize(("kind", "heads", "norm"), [("gcn", 1, "none"), ("sage", 1, "layer"), ("gat", 2, "none")])
def test_pls_soup_in_pyg_has_the_accuracy_of_the_report(tmp_path: Path, kind: str, heads: int, norm: str) -> None:
    made = kit.make_workdir(tmp_path, kind=kind, heads=heads, norm=norm)
    kit.succeeds(made.gnnsoup_here("run", "--set", 'soup.methods=["pls"]'))
    run = made.root

    found = read_model(run / "soups" / "pls.h5")
    model = found.architecture.to_module().eval()
    model.load_state_dict(found.state, strict=True)
    x, edge_index, y, test = graph_as_pyg_sees_it(run / "graph.h5")
    with torch.no_grad():
        right = (model(x, edge_index).argmax(1) == y)[test]

    assert int(right.sum()) / len(right) == reported(run / "report.h5")["pls"]


def graph_as_pyg_sees_it(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, edge_index, labels and test mask, read with h5py alone."""
    with h5py.File(path) as file:
        indptr, source = file["edges/indptr"][:], file["edges/indices"][:]
        destination = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        edge_index = torch.from_numpy(np.stack([source, destination]))
        nodes = file["nodes"]
        test = torch.from_numpy(nodes["split"][:] == 3)
        return torch.from_numpy(nodes["x"][:]), edge_index, torch.from_numpy(nodes["y"][:]), test


def reported(path: Path) -> dict[str, float]:
    """Test accuracy by method, read with h5py alone."""
    with h5py.File(path) as file:
        return dict(zip(file["methods/method"].asstr()[:], file["methods/test_accuracy"][:].tolist(), strict=True))
