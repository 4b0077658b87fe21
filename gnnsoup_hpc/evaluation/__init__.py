"""What a model is worth on the nodes of a role."""
