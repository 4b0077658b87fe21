"""What computing a soup's running statistics anew changed, of models with batch norm."""

from __future__ import annotations

import numpy as np

from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.utils.text_table import align_columns

_HEAD = ("method", "validation", "mixed", "test", "mixed", "seconds")


def list_recomputed(run: Contents) -> list[str]:
    """Lines; none where no soup has statistics."""
    rows = [
        (
            soup.method,
            f"{soup.validation_accuracy:.4f}",
            f"{found.validation_before:.4f}",
            f"{soup.test_accuracy:.4f}",
            f"{found.test_before:.4f}",
            f"{found.seconds:.2f}",
        )
        for soup in run.soups
        if (found := soup.recomputed) is not None
    ]
    if not rows:
        return []
    return [
        "",
        "running statistics of batch norm, computed anew over all nodes; mixed: with the shares that weights have:",
        *align_columns([_HEAD, *rows]),
    ]


def make_recomputed_columns(run: Contents) -> Columns | None:
    """The same for report.h5; None where no soup has statistics."""
    rows = [(soup, found) for soup in run.soups if (found := soup.recomputed) is not None]
    if not rows:
        return None
    values = {
        "validation_before": [found.validation_before for _, found in rows],
        "test_before": [found.test_before for _, found in rows],
        "seconds_recomputing": [found.seconds for _, found in rows],
    }
    about = {
        "validation_before": ("1", "exact, on validation nodes, with mixed running statistics"),
        "test_before": ("1", "exact, on test nodes, with mixed running statistics"),
        "seconds_recomputing": ("s", "of mixing and computing statistics anew; in the method's seconds"),
    }
    return {"method": ([soup.method for soup, _ in rows], "1", "souping method")} | {
        name: (np.array(values[name]), *about[name]) for name in values
    }
