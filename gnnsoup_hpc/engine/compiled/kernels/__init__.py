"""Compiled kernels on rows of a CSR structure, each of which lets go of Python's lock."""
