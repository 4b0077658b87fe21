"""The jobs of the paper's experiments against its tables II and III (arXiv 2503.11612), cell by cell."""

from __future__ import annotations

import pytest

from gnnsoup_hpc.config import loading as jobs

TABLES = """
gcn-flickr    | 4 | 0.5  | 50   | 1e-4 | 5e-5 | 1000  | 100 80 | 8/32  | 150 11
gcn-arxiv     | 4 | 0.75 | 1000 | 5e-3 | 0    | full  | 250 11 | 8/32  | 200 7.5
gcn-reddit    | 4 | 0.2  | 50   | 1e-4 | 0    | 4000  | 100 80 | 8/32  | 500 110
gcn-products  | 3 | 0    | 50   | 1e-3 | 0    | 4000  | 100 40 | 4/32  | 100 40
gat-flickr    | 4 | 0.5  | 50   | 2e-3 | 0    | full  | 150 11 | 8/32  | 150 40
gat-arxiv     | 3 | 0.75 | 350  | 2e-3 | 0    | full  | 100 10 | 4/32  | 400 10
gat-reddit    | 3 | 0.75 | 25   | 1e-3 | 0    | 16000 | 25 80  | 2/32  | 100 80
gat-products  | 3 | 0.2  | 25   | 1e-3 | 0    | 16000 | 100 5  | 4/128 | 100 40
sage-flickr   | 3 | 0.25 | 750  | 1e-3 | 1e-4 | full  | 5 10   | 8/32  | 125 15
sage-arxiv    | 4 | 0.5  | 50   | 1e-3 | 0    | 2000  | 200 15 | 8/32  | 125 15
sage-reddit   | 3 | 0.2  | 50   | 1e-4 | 0    | 1000  | 50 10  | 4/32  | 50 6
sage-products | 3 | 0.25 | 50   | 1e-3 | 0    | 4000  | 25 10  | 4/32  | 50 1
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLES.strip().splitlines()]
SOURCES = {"flickr": "pyg:Flickr", "arxiv": "ogb:ogbn-arxiv", "reddit": "pyg:Reddit", "products": "ogb:ogbn-products"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_cell(row: list[str]) -> None:
    name, layers, dropout, epochs, rate, decay, batch, ls, parts, pls = row
    kind, graph = name.split("-")
    job = jobs.load(name)
    assert job.graph.source == SOURCES[graph]
    assert (job.model.kind, job.model.layers) == (kind, int(layers))
    assert job.model.hidden == (250 if name == "gat-arxiv" else 512)
    train = job.train
    assert [train.dropout, train.learning_rate, train.weight_decay] == [float(dropout), float(rate), float(decay)]
    assert train.epochs == int(epochs)
    assert train.batch == ("full" if batch == "full" else "neighbour")
    assert batch == "full" or train.batch_size == int(batch)
    restart = 3 if name == "gcn-flickr" else 4
    for method, cells in ((job.soup.ls, ls), (job.soup.pls, pls)):
        steps, learning_rate = cells.split()
        assert (method.epochs, method.learning_rate, method.restart) == (int(steps), float(learning_rate), restart)
    assert f"{job.soup.pls.union}/{job.partition.parts}" == parts
    assert job.soup.gis.granularity == 20
