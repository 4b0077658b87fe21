"""`python -m gnnsoup_hpc.status`: the same as `gnnsoup status`."""

import sys

from gnnsoup_hpc.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[1:]]))
