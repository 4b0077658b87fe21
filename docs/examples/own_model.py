"""A torch module of one's own: a function makes it, the job names the function.

Run it in an empty folder: python own_model.py
"""

import torch
from torch_geometric.nn import GATv2Conv

import gnnsoup_hpc as gs


class Network(torch.nn.Module):
    """A linear layer, an attention with a residual, a linear head."""

    def __init__(self, in_channels, out_channels, hidden):
        super().__init__()
        self.inwards = torch.nn.Linear(in_channels, hidden)
        self.attend = GATv2Conv(hidden, hidden, heads=2, concat=False)
        self.outwards = torch.nn.Linear(hidden, out_channels)
        self.dropout = torch.nn.Dropout(0.5)  # what is drawn makes ingredients differ

    def forward(self, x, edge_index):
        """Scores of all nodes of a graph, or of a part of one."""
        x = self.dropout(self.inwards(x).relu())
        return self.outwards(x + self.attend(x, edge_index).relu())


def make(in_channels, out_channels, hidden):
    """The first two are filled in from the graph, the rest is the job's."""
    return Network(in_channels, out_channels, hidden)


if __name__ == "__main__":
    config = {
        "name": "own-model",
        "graph": {"source": "synthetic:arxiv", "synthetic": {"scale": 0.004}},
        "partition": {"parts": 4},
        "model": {"kind": "module", "factory": "own_model:make", "arguments": {"hidden": 16}, "hops": 1},
        "train": {"ingredients": 3, "epochs": 5},
        "soup": {"methods": ["best", "uniform", "greedy", "pls"]},
    }
    run = gs.make_soups(gs.train_ingredients(config).job)
    print(run.report()["methods"][["method", "test_accuracy"]])
    print(type(run.soup("pls").as_pyg()).__name__, "with the soup's weights")
