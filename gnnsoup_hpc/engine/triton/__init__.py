"""The engine for NVIDIA GPUs: GCN, GraphSAGE and GAT through kernels of our own, written in Triton."""
