"""How LS and PLS fit alpha: optimisers over a stream of batches."""
