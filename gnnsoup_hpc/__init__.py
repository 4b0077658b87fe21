"""gnnsoup_hpc: souping graph neural networks at scale."""

import os

__version__ = "0.1.0"

# A waiting OpenMP thread spins on its core by default, which the compiled kernels' threads then go without: between
# kernels and dense products that made a step over twice as slow (docs/kernels.md). OpenMP reads this when it is
# loaded, with torch; whoever has set one of the two variables knows better.
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
