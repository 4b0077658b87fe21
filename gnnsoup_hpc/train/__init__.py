"""Training of ingredients: independent, without any communication, resumed by the same command."""
