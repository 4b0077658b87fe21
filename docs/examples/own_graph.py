"""Arrays of one's own as a graph; a GCN's ingredients and soups; scores of nodes that were not there.

Run it in an empty folder: python own_graph.py
"""

import numpy as np

import gnnsoup_hpc as gs

draw = np.random.default_rng(0)
nodes, classes = 800, 4
y = draw.integers(classes, size=nodes)
x = draw.normal(size=(nodes, 12)).astype("float32")
x[np.arange(nodes), y] += 1.0
ends = draw.integers(nodes, size=(2, 9000))
alike = y[ends[0]] == y[ends[1]]
role = draw.random(nodes)
np.savez(
    "mine.npz",
    x=x,
    y=y,
    edge_index=ends[:, alike | (draw.random(9000) < 0.2)],  # each edge once, or both ways: reverses are added
    train_mask=role < 0.1,
    val_mask=(role >= 0.1) & (role < 0.4),
    test_mask=role >= 0.4,
)

run = gs.make_soups(
    gs.train_ingredients(
        {
            "name": "own-graph",
            "graph": {"source": "npz:mine.npz", "split": "stored"},
            "partition": {"parts": 4},
            "model": {"kind": "gcn", "layers": 2, "hidden": 16},
            "train": {"ingredients": 4, "epochs": 20, "dropout": 0.5},
            "soup": {"methods": ["best", "uniform", "gis", "ls", "pls"]},
        }
    ).job
)
print(run.report()["methods"][["method", "test_accuracy"]])

# Another graph with the same features: its nodes are prepared as the run's were.
np.savez("new.npz", x=x[:50], edge_index=np.array([np.arange(49), np.arange(1, 50)]))
print("classes of new nodes:", run.predict("ls", "npz:new.npz").argmax(1))
