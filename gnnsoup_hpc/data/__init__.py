"""From a source to graph.h5, and from graph.h5 to batches."""
