"""Files of a run; the only user of h5py. docs/format.md is the contract that these modules keep."""
