"""`python -m gnnsoup_hpc.report`: the same as `gnnsoup report`."""

import sys

from gnnsoup_hpc.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
