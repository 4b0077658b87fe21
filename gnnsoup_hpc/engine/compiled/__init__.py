"""The compiled engine: GCN, GraphSAGE and GAT on a CPU, forward and backward, by numba kernels and BLAS."""
