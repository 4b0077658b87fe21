"""How many bytes each phase will hold, and what fits in the memory limit."""
