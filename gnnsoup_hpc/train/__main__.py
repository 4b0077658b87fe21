"""`python -m gnnsoup_hpc.train`: the same as `gnnsoup train`."""

import sys

from gnnsoup_hpc.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
