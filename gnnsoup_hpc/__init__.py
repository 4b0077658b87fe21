"""gnnsoup_hpc: souping graph neural networks at scale. It gives the names of gnnsoup_hpc.api, loaded when asked for."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A name of `gnnsoup_hpc.api`, for which torch is loaded. Importing the package itself changes nothing."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = import_module(f"{__name__}.api")
    if name not in api.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(api.__all__)}")
    return getattr(api, name)


def __dir__() -> list[str]:
    """Names that there are, without loading anything more than they need."""
    return ["__version__", *import_module(f"{__name__}.api").__all__]
