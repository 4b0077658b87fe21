"""`python -m tests.soak`: train and soup while ranks are killed at random; say what was survived (docs/faults.md)."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import kit
from tests.soak.storm import Plan, Storm, differences, quiet


def main() -> int:
    """Entry point: 1 where something was lost, damaged or made twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--ingredients", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--kills", type=int, default=30, help="at least so many while training")
    parser.add_argument("--souping-kills", type=int, default=4, help="and so many while souping")
    parser.add_argument("--seed", type=int, default=0, help="of what is done to which rank, and when")
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        print(f"soak: {plan}", flush=True)
        calm = quiet(Path(folder, "calm"), plan)
        start = time.monotonic()
        storm = Storm(kit.make_workdir(Path(folder, "storm")), plan, lambda line: print(f"soak: {line}", flush=True))
        storm.blow()
        problems = [*storm.problems, *differences(storm, calm)]
    counts = ", ".join(f"{name} {count}" for name, count in sorted(storm.counts.items()))
    print(f"soak: {storm.kills} kills survived in {time.monotonic() - start:.0f} s ({counts})")
    print("".join(f"soak: problem: {problem}\n" for problem in problems), end="")
    print("soak: all ingredients and soups are there, whole, and those of an undisturbed run" if not problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
