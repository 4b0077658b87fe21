"""Soup four checkpoints that a script of PyTorch Geometric left: import, mix, read the answer, take the soup out.

Run it in an empty folder: python checkpoints.py
"""

import torch
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.nn import GraphSAGE
from torch_geometric.utils import to_undirected

import gnnsoup_hpc as gs

# ---- what you have: a graph, and a script that trained four models on it, here by full batches

torch.manual_seed(0)
nodes, classes = 1000, 3
y = torch.randint(classes, (nodes,))
x = torch.randn(nodes, 16)
x[torch.arange(nodes), y] += 1.0
ends = torch.randint(nodes, (2, 8000))
edges = ends[:, (y[ends[0]] == y[ends[1]]) | (torch.rand(8000) < 0.3)]
role = torch.randint(10, (nodes,))
data = Data(x=x, y=y, edge_index=to_undirected(edges))
data.train_mask, data.val_mask, data.test_mask = role == 0, (role > 0) & (role < 4), role > 3
torch.save(data, "graph.pt")

model = GraphSAGE(16, 32, num_layers=2, out_channels=classes, dropout=0.5)
start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
for seed in range(4):
    torch.manual_seed(seed)
    model.load_state_dict(start)  # one initial state, or soup.align puts their hidden units in one order
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimiser.zero_grad()
        scores = model(data.x, data.edge_index)
        cross_entropy(scores[data.train_mask], data.y[data.train_mask]).backward()
        optimiser.step()
    torch.save(model.state_dict(), f"model{seed}.pt")

# ---- what gnnsoup_hpc does with them

config = {
    "name": "checkpoints",
    "graph": {"source": "pt:graph.pt", "split": "stored", "features": "none"},  # features as the script had them
    "partition": {"parts": 4},
    "model": {"kind": "sage", "layers": 2, "hidden": 32},
}
gs.import_checkpoints(config, ["model*.pt"])
run = gs.make_soups(config)
print(run.report()["methods"][["method", "validation_accuracy", "test_accuracy", "gain", "gain_error", "verdict"]])

soup = run.soup("pls")
mixed = soup.as_pyg().eval()  # a GraphSAGE of torch_geometric.nn, as `model` is
model.load_state_dict(mixed.state_dict())
right = model.eval()(data.x, data.edge_index).argmax(1) == data.y
print("test accuracy of the PLS soup in plain PyG:", right[data.test_mask].double().mean().item())
