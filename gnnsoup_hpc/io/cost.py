"""Time and memory as the group cost/ of every file whose making is measured."""

from __future__ import annotations

from math import nan

import h5py

from gnnsoup_hpc.io import files, values
from gnnsoup_hpc.runtime.profiling import QUANTITIES, Measurement


def put(file: h5py.File, spent: Measurement) -> h5py.Group:
    """Write every quantity with its unit and meaning; NaN = not measurable where the file was made."""
    group = file.create_group("cost", track_order=True)
    for name, quantity in QUANTITIES.items():
        files.put(group, name, spent[name], quantity.unit, quantity.long_name)
    return group


def get(file: h5py.File) -> Measurement:
    """The quantities of a file; NaN for what it does not have, as one that another program wrote may lack all."""
    return Measurement({name: values.number(file, f"cost/{name}", nan) for name in QUANTITIES})
