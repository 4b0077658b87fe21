"""How a run stands, read from its files while ranks work at it."""
