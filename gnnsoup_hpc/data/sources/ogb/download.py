"""Fetch a set's archive: its size is said first, nothing is asked, and a folder that is there is complete."""

from __future__ import annotations

import os
import shutil
import urllib.request
import zipfile
from pathlib import Path
from typing import IO

from gnnsoup_hpc.data.sources.context import SourceContext
from gnnsoup_hpc.data.sources.ogb.catalogue import OgbDataset
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.utils.out_of_core import reserve

_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 60.0


def fetch(about: OgbDataset, home: Path, desk: SourceContext) -> None:
    """Download and unpack `about` to `home`, which appears only once it is whole.

    Raises: GraphError where downloads are not allowed, or fail.
    """
    if desk.offline:
        desk.ask_to_download(about.name, home, "size unknown")
    private = home.with_name(f".{home.name}.{os.getpid()}.part")
    try:
        private.mkdir(parents=True)
        archive = private / "archive.zip"
        with urllib.request.urlopen(about.url, timeout=_TIMEOUT_SECONDS) as answer:
            size = int(answer.headers["Content-Length"])
            desk.ask_to_download(about.name, home, f"{size / 2**20:.1f} MiB from {about.url}")
            _save(answer, archive, size)
        with zipfile.ZipFile(archive) as content:
            content.extractall(private)
        (private / about.download_name).rename(home)
    except (OSError, zipfile.BadZipFile, TypeError) as error:
        raise GraphError(f"{about.name} cannot be downloaded from {about.url} to {home}: {error}") from None
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _save(answer: IO[bytes], path: Path, size: int) -> None:
    with path.open("wb") as file:
        reserve(file.fileno(), size)
        done = 0
        while block := answer.read(_BLOCK):
            done += file.write(block)
    if done != size:
        raise OSError(f"the connection ended after {done} of {size} bytes")
