"""In the extended package: GIN in PyG, and layer by layer, against the model itself; largest differences, relative."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import TorchEngine, choose_engine
from gnnsoup_hpc.engine.out_of_core.layers import make_layerwise
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.types import Role

CPU = torch.device("cpu")


def main(job_file: str, scratch: str) -> None:
    """Print the difference to PyG's module and that of evaluation layer by layer."""
    job = load_job(job_file)
    with graph_store.open_graph(Path("runs") / job.name / "graph.h5", job) as graph:
        model = make_model(job.model, graph.features, graph.classes)
        state, batch = model.init_state(3), loader.load_whole(graph, Role.VALIDATION)
        engine = choose_engine(model, CPU)
        assert isinstance(engine, TorchEngine)
        logits = engine.logits(engine.plan(model, batch), state)
        module = model.to_module().eval()
        module.load_state_dict(state, strict=True)
        adjacency = batch.graph.adjacency
        edges = torch.stack([adjacency.indices.long(), adjacency.row.long()])
        theirs = module(batch.graph.x, edges)[batch.seeds]
        layers = make_layerwise(graph, model, 1 << 16, Path(scratch), CPU, batch.seeds.numpy())
        blocks = torch.cat([block for _, block in layers.scores(state)])
    largest = logits.abs().max()
    print(*(float((logits - other).detach().abs().max() / largest) for other in (theirs, blocks)))


if __name__ == "__main__":
    main(*sys.argv[1:])
