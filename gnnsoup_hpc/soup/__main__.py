"""`python -m gnnsoup_hpc.soup`: the same as `gnnsoup soup`."""

import sys

from gnnsoup_hpc.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["soup", *sys.argv[1:]]))
