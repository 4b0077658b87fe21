"""GAT on a CPU, forward and backward over a plan: gradients of the parameters alone, within bounded memory."""
