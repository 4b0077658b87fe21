"""How a run stands, told from its files while ranks work at it."""
