"""Memory sizes as people write them."""

from __future__ import annotations

import re

AUTO = "auto"
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("kmgt", 1)
    for kind, base in (("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def parse_bytes(text: str) -> int | None:
    """Bytes of "2 GiB", "500 MiB", "1.5 GB" or "2000000000"; None for "auto", which leaves them to the machine.

    Raises: ValueError for anything else, and for nothing at all.
    """
    if text.strip().lower() == AUTO:
        return None
    found = _SIZE.fullmatch(text.strip().lower())
    count = round(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if not count:
        raise ValueError(
            f"{text!r} is no size of memory: write a number and B, KiB, MiB, GiB, TiB (or KB, MB, GB, TB), for example"
            " '2 GiB', or 'auto'"
        )
    return count


def format_bytes(count: float) -> str:
    """A size for people, never smaller than it is: "1.3 GiB", "200 MiB"."""
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    tenths = -(-int(count) * 10 // unit) if unit == 2**30 else -(-int(count) // unit) * 10
    return f"{tenths / 10:.1f}".removesuffix(".0") + f" {name}"
