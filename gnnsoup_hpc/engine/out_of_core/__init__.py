"""Exact inference on a graph that does not fit: layer by layer, and the first aggregation made block by block."""
