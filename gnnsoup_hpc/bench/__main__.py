"""`python -m gnnsoup_hpc.bench`: the same as `gnnsoup bench`."""

import sys

from gnnsoup_hpc.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
