"""A user's own script: models of stock PyG or of the user's own, trained and saved; then soups, loaded and measured.

python plain_script.py train MODEL COUNT GRAPH.npz    writes graph.pt, checkpoints/N.pt, and measured.json
python plain_script.py measure MODEL SOUP.pt …        prints validation and test accuracy of each as JSON
"""

import json
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GIN, GraphSAGE

EPOCHS, HIDDEN = 6, 16


def make_model(name):
    if name == "sage":
        return GraphSAGE(500, HIDDEN, num_layers=2, out_channels=3, dropout=0.3)
    if name == "gin":
        return GIN(500, HIDDEN, num_layers=2, out_channels=3, dropout=0.3, norm="batch_norm", jk="cat")
    import tuned_gcn  # of the user's own, beside the checkpoints

    return tuned_gcn.make(500, 3, hidden=HIDDEN, layers=2, dropout=0.3)


def read(path):
    raw = dict(np.load(path))
    nodes = len(raw["y"])
    rows = raw["x_data"].astype(np.float32), raw["x_indices"].astype(np.int32), raw["x_indptr"]
    ends = np.stack([raw["indices"].astype(np.int64), np.repeat(np.arange(nodes), np.diff(raw["indptr"]))])
    x = torch.from_numpy(sp.csr_matrix(rows).toarray())
    data = Data(x=x, y=torch.from_numpy(raw["y"].astype(np.int64)), edge_index=torch.from_numpy(ends))
    some = nodes // 5
    parts = torch.randperm(nodes).split([nodes - 2 * some, some, some])
    for name, ids in zip(("train_mask", "val_mask", "test_mask"), parts, strict=True):
        data[name] = torch.zeros(nodes, dtype=torch.bool).index_fill(0, ids, True)
    return data


def fit(model, data):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(EPOCHS):
        model.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]
        ).backward()
        optimizer.step()
    return optimizer


@torch.no_grad()
def measure(model, data):
    right = model.eval()(data.x, data.edge_index).argmax(1) == data.y
    return [right[mask].double().mean().item() for mask in (data.val_mask, data.test_mask)]


def train(name, count, graph):
    torch.manual_seed(0)
    data, start, measured = read(graph), make_model(name).state_dict(), {}
    torch.save(data, "graph.pt")
    Path("checkpoints").mkdir()
    for number in range(int(count)):
        torch.manual_seed(number + 1)
        model = make_model(name)
        if number < int(count) - 1:  # the last has a start of its own
            model.load_state_dict(start)
        optimizer = fit(model, data)
        measured[f"{number}.pt"] = measure(model, data)
        content = {"epoch": EPOCHS, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(content, f"checkpoints/{number}.pt")
    Path("measured.json").write_text(json.dumps(measured))


def main(what, name, *words):
    if what == "train":
        train(name, *words)
        return
    data, found = torch.load("graph.pt", weights_only=False), {}
    for path in words:
        model = make_model(name)
        model.load_state_dict(torch.load(path, weights_only=True))
        found[path] = measure(model, data)
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main(*sys.argv[1:])
