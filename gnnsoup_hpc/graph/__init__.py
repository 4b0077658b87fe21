"""The graph as it is in memory: structure, subgraphs, batches, and which graph it is."""
