"""All methods, in one explicit table. docs/methods.md says how to add one."""

from __future__ import annotations

from gnnsoup_hpc.config import METHOD_NAMES, MethodName, SoupJob
from gnnsoup_hpc.soup.methods.best import BestIngredient
from gnnsoup_hpc.soup.methods.ensemble import Ensemble
from gnnsoup_hpc.soup.methods.gis import Gis
from gnnsoup_hpc.soup.methods.greedy import Greedy
from gnnsoup_hpc.soup.methods.learned import Learned
from gnnsoup_hpc.soup.methods.partition_learned import PartitionLearned
from gnnsoup_hpc.soup.methods.uniform import Uniform
from gnnsoup_hpc.soup.protocol import SoupMethod

__all__ = ["METHOD_NAMES", "configured"]


def make_methods(job: SoupJob) -> dict[MethodName, SoupMethod]:
    """Every method by name, with the job's options."""
    return {
        "best": BestIngredient(),
        "uniform": Uniform(),
        "greedy": Greedy(),
        "gis": Gis(job.gis),
        "ls": Learned(job.ls),
        "pls": PartitionLearned(job.pls),
        "ensemble": Ensemble(),
    }
