"""Hidden units of one model put in the order of another's, which changes no output.

Pure functions of an architecture and states; who aligns what to what in a run is soup/alignment.py's to say.
Source: Ainsworth et al., Git Re-Basin, ICLR 2023, arXiv 2209.04836.
"""

from gnnsoup_hpc.alignment.matching import align_states, match_all_by_weights, match_by_activations
from gnnsoup_hpc.alignment.symmetry import identity_permutation, permute, unit_layouts

__all__ = [
    "align_states",
    "identity_permutation",
    "match_all_by_weights",
    "match_by_activations",
    "permute",
    "unit_layouts",
]
