"""gnnsoup_hpc: souping graph neural networks at scale."""

__version__ = "0.1.0"
