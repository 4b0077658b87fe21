"""soups/<method>.h5. Format: docs/format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.graph.graph import Preparation
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import files, judged, states
from gnnsoup_hpc.io.graph import put_preparation
from gnnsoup_hpc.io.records import MixingWeights, Paired, Recomputed, Soup, Step
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.profiling import COUNTS
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import State
from gnnsoup_hpc.utils.hashing import canonical, fingerprint

KIND, VERSION = "soup", 1
_OF_MEASUREMENT = {"ranks", "threads", "device", "streamed"}  # what a fingerprint says of how, and not of what


def hash_ingredients(graph_sha256: str, part_sha256: str, ingredients: Mapping[str, str]) -> str:
    """Hash of what soups are made of: graph, parts, and the hash of each ingredient's weights by its name."""
    return fingerprint([graph_sha256, part_sha256, dict(ingredients)])


@dataclass(frozen=True)
class SoupFingerprint:
    """What a soup and its measurement are a function of; a soup of the same recipe need not be made again."""

    method: str
    options: dict[str, Any]
    seed: int
    graph_sha256: str
    part_sha256: str
    ingredients: dict[str, str]
    ranks: int
    threads: int
    device: str
    left_out: tuple[str, ...] = ()
    streamed: bool = False  # accuracies computed layer by layer, which takes other time and memory

    @property
    def ingredients_sha256(self) -> str:
        """Hash of the ingredients' weights and of the graph: equal for soups that may stand in one report."""
        return hash_ingredients(self.graph_sha256, self.part_sha256, self.ingredients)

    @property
    def identity(self) -> str:
        """Hash of what the soup is a function of, however it was measured: the same for any ranks and threads."""
        return fingerprint({key: value for key, value in self.__dict__.items() if key not in _OF_MEASUREMENT})

    @property
    def sha256(self) -> str:
        """Hash of everything."""
        return fingerprint(self.__dict__)


def write(
    path: Path, soup: Soup, recipe: SoupFingerprint, architecture: Model, preparation: Preparation, job: Job
) -> None:
    """Publish a soup."""
    mixture = soup.mixture
    with files.create_file(path, KIND, VERSION, f"soup made by {soup.method}") as file:
        file.attrs["method"] = soup.method
        file.attrs["source"] = soup.source
        file.attrs["recipe"] = recipe.sha256
        file.attrs["shelf_sha256"] = soup.ingredients_sha256
        if soup.state is not None:
            states.put(file, soup.state)
        mix = file.create_group("mixture", track_order=True)
        mix.attrs["of"], mix.attrs["by"] = mixture.of, mixture.by
        files.put(mix, "alpha", mixture.alpha.numpy(), "1", "share of each ingredient (column) in each group (row)")
        files.put(mix, "groups", list(mixture.groups), "1", "groups of parameters, the rows of alpha")
        files.put(mix, "ingredients", list(soup.ingredients), "1", "ingredients, the columns of alpha")
        files.put(mix, "left_out", list(soup.left_out), "1", "why other ingredients are not in the soup")
        if soup.alignment is not None:
            alignment_store.put(mix, soup.alignment)
        files.put_records(file, "history", Step, mixture.history, "one row a step")
        if soup.judged.target_mean:
            file["history/loss"].attrs["units"] = "1"
        metrics = file.create_group("metrics", track_order=True)
        files.put(metrics, "validation_accuracy", soup.validation_accuracy, "1", "exact, on validation nodes")
        files.put(metrics, "test_accuracy", soup.test_accuracy, "1", "exact, on test nodes")
        if soup.test_right is not None:
            files.put(metrics, "test_right", soup.test_right, "1", "a bit a test node: 1 = right")
        judged.put(metrics, soup.judged)
        if soup.paired is not None:
            metrics.attrs["best_ingredient"] = soup.paired.best
            files.put(metrics, "only_soup_right", soup.paired.only_soup, "1", "test nodes that the best gets wrong")
            about = "test nodes that only the best gets right"
            files.put(metrics, "only_best_right", soup.paired.only_best, "1", about)
        if (found := soup.recomputed) is not None:
            files.put(metrics, "seconds_recomputing", found.seconds, "s", "of mixing and recomputing statistics")
            for name in ("validation_mixed", "test_mixed"):
                files.put(metrics, name, getattr(found, name), "1", "with mixed running statistics")
            for name in ("validation_anew", "test_anew"):
                files.put(metrics, name, getattr(found, name), "1", "with recomputed ones, of an ingredient too")
            about = "standard error of validation_anew - validation_mixed"
            files.put(metrics, "validation_error", found.validation_error, "1", about)
        passes = file.create_group("passes", track_order=True)
        for name, count in soup.counts.items():
            files.put(passes, name, count, "1", COUNTS[name])
        files.put_cost(file, soup.measurement)
        put_preparation(file, preparation)
        made = {"ranks": recipe.ranks, "threads": recipe.threads, "device": recipe.device}
        made |= {"recipe": canonical(recipe.__dict__), "architecture": canonical(architecture.record())}
        files.put_provenance(file, job.to_toml(), **made)


def read_fingerprint(path: Path) -> str:
    """The recipe's hash of the soup in a file."""
    with files.read_file(path, KIND, VERSION) as file:
        return str(file.attrs["recipe"])


def read_recipe(path: Path) -> SoupFingerprint:
    """The recipe of the soup in a file. Raises: FileError."""
    with files.read_file(path, KIND, VERSION) as file:
        return SoupFingerprint(**json.loads(file["provenance"].attrs["recipe"]))


def read_state(path: Path) -> State:
    """The weights of the soup in a file, which is no ensemble's. Raises: FileError."""
    with files.read_file(path, KIND, VERSION) as file:
        return states.get(file)


def read_start(run: RunDir, method: str) -> dict[str, str]:
    """What a distilled model that begins at the soup of a method is a function of besides, as fields of its options.

    None where it begins at no soup's file, and the method is "". Raises: FileError.
    """
    return {"start_sha256": read_recipe(run.soup(method)).identity} if method else {}


def read(path: Path) -> Soup:
    """The soup in a file. Raises: FileError naming the file and what is wrong with it."""
    with files.read_file(path, KIND, VERSION) as file:
        mix, metrics, made = file["mixture"], file["metrics"], json.loads(file["provenance"].attrs["recipe"])
        mixture = MixingWeights(
            alpha=torch.from_numpy(mix["alpha"][:]),
            groups=tuple(mix["groups"].asstr()[:]),
            by=mix.attrs["by"],
            history=tuple(files.get_records(file["history"], Step)),
            of=mix.attrs["of"],
        )
        paired = None
        if "only_soup_right" in metrics:
            counts = (int(metrics[name][()]) for name in ("only_soup_right", "only_best_right"))
            paired = Paired(str(metrics.attrs["best_ingredient"]), *counts)
        recomputed = None
        if "seconds_recomputing" in metrics:
            figures = "validation_mixed", "test_mixed", "validation_anew", "test_anew"
            names = "seconds_recomputing", *figures, "validation_error"  # which files of older versions lack
            recomputed = Recomputed(*(float(metrics[name][()]) if name in metrics else nan for name in names))
        return Soup(
            method=str(file.attrs["method"]),
            source=str(file.attrs["source"]),
            options={"seed": made["seed"]} | made["options"],
            ingredients=tuple(mix["ingredients"].asstr()[:]),
            ingredients_sha256=str(file.attrs["shelf_sha256"]),
            left_out=tuple(mix["left_out"].asstr()[:]),
            mixture=mixture,
            state=states.get(file) if "state" in file else None,
            validation_accuracy=float(metrics["validation_accuracy"][()]),
            test_accuracy=float(metrics["test_accuracy"][()]),
            measurement=files.get_cost(file),
            counts={name: int(file["passes"][name][()]) for name in COUNTS},
            alignment=alignment_store.get(mix) if "alignment" in mix else None,
            test_right=metrics["test_right"][:] if "test_right" in metrics else None,
            paired=paired,
            recomputed=recomputed,
            judged=judged.get(metrics),
        )
