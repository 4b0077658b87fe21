"""`gnnsoup slurm`: the batch scripts as files of a folder, for where the package is installed without a checkout."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
from pathlib import Path

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.utils.paths import expand_home, find_bundled

ENVIRONMENT = "environment.sh"  # the user's to edit
SUMS = "SHA256SUMS"  # of what was written here, as sha256sum has them


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Write the scripts, and say how one is submitted.

    Raises: RunError where one was changed since it was written, before any is written.
    """
    folder = expand_home(arguments.folder)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is not a folder: name one, or a new one")
    scripts, sums = read_scripts(sys.executable), _read_sums(folder)
    there = {name: (folder / name).read_bytes() for name in scripts if (folder / name).exists()}
    changed = [name for name, text in there.items() if text != scripts[name] and _hash(text) != sums.get(name)]
    if theirs := [name for name in changed if name != ENVIRONMENT]:
        raise RunError(
            f"{folder / theirs[0]} was changed since `gnnsoup slurm` wrote it, or is another's: move it away, and give"
            f" the same command again (settings of your site belong in {ENVIRONMENT}, which is kept)"
        )
    for name in (name for name in scripts if name not in changed):
        files.publish_bytes(folder / name, scripts[name])
        (folder / name).chmod(0o755)
        sums[name] = _hash(scripts[name])
    files.publish_bytes(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())
    place = folder / ENVIRONMENT
    if changed:
        print(f"slurm: {place} was changed, and is kept: see that its GNNSOUP_PYTHON is {sys.executable}")
    else:
        print(f"slurm: jobs run {sys.executable}: {place} says so, and takes settings of your site")
    print(f"slurm: sbatch --ntasks=8 {shlex.quote(str(folder / 'train_ingredients.sh'))} JOB", flush=True)


def read_scripts(python: str) -> dict[str, bytes]:
    """Files of the batch scripts by name; `python` is the interpreter that they run unless GNNSOUP_PYTHON names one."""
    found = find_bundled("slurm/launch.sh").parent.iterdir()
    scripts = {path.name: path.read_bytes() for path in sorted(found) if path.suffix in (".sh", ".def")}
    scripts[ENVIRONMENT] += os.fsencode(f"GNNSOUP_PYTHON=${{GNNSOUP_PYTHON:-{shlex.quote(python)}}}\n")
    return scripts


def _read_sums(folder: Path) -> dict[str, str]:
    """Hashes of the files as they were written, by name; nothing where none was."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {name: value for value, _, name in (line.partition("  ") for line in lines)}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
