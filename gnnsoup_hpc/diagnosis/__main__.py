"""`python -m gnnsoup_hpc.diagnosis`: the same as `gnnsoup diagnose`."""

import sys

from gnnsoup_hpc.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["diagnose", *sys.argv[1:]]))
