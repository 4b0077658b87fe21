"""Soups of any torch module, no graph anywhere: four small networks that tell rings from one another.

Run it anywhere: python any_module.py
"""

import torch
from torch.nn.functional import cross_entropy

import gnnsoup_hpc as gs

torch.manual_seed(0)
angle = 6.3 * torch.rand(900)
ring = torch.randint(3, (900,))
x = (1.0 + ring)[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + 0.45 * torch.randn(900, 2)
train, validation, test = slice(0, 100), slice(100, 400), slice(400, 900)

model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 3))
start, states = {name: tensor.clone() for name, tensor in model.state_dict().items()}, []
for seed in range(4):
    torch.manual_seed(seed)
    model.load_state_dict(start)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        optimiser.zero_grad()
        cross_entropy(model(x[train]), ring[train]).backward()
        optimiser.step()
    states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})


def accuracy(state, nodes=validation):
    """Share of points whose ring is told; high is good."""
    model.load_state_dict(state)
    return (model.eval()(x[nodes]).argmax(1) == ring[nodes]).double().mean().item()


def loss(module, batch):
    """Of some validation points."""
    return cross_entropy(module(x[batch]), ring[batch])


batches = torch.arange(100, 400).split(100)
soups = {
    "uniform": gs.uniform_soup(states),
    "greedy": gs.greedy_soup(states, accuracy),
    "GIS": gs.gis(states, accuracy),
    "learned": gs.learned_soup(model, states, batches, loss, epochs=20),
}
print("best ingredient:", accuracy(max(states, key=accuracy), test))
for name, soup in soups.items():
    print(f"{name}: test {accuracy(soup.state, test):.4f}, shares {soup.alpha[0].tolist()}")
