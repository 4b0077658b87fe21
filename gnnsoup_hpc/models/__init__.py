"""The models that can be trained and souped."""
