"""Hidden units of one model put in the order of another's, which changes no output.

Pure functions of an architecture and states; who aligns what to what in a run is soup/alignment.py's to say.
Source: Ainsworth et al., Git Re-Basin, ICLR 2023, arXiv 2209.04836.
"""
