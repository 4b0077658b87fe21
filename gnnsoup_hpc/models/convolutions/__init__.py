"""Kinds of graph convolution, in one explicit table: a file and a line each. docs/architecture.md says how to add one.

A class is loaded when a model of its kind is computed, so that a job is read without loading torch.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gnnsoup_hpc.models.convolutions.base import Convolution

CONVOLUTIONS = {  # kind in [model]: module and class here
    "gcn": "gcn.Gcn",
    "sage": "sage.Sage",
    "gat": "gat.Gat",
}


@cache
def find_convolution(kind: str) -> Convolution:
    """The convolution of that kind."""
    module, name = CONVOLUTIONS[kind].split(".")
    found: Convolution = getattr(import_module(f"{__name__}.{module}"), name)()
    return found
