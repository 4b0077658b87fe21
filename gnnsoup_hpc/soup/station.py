"""A rank's station: what it needs to tell the accuracy of mixtures on the validation nodes. No test label is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc import evaluate, stream
from gnnsoup_hpc.measure import Meter
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import Grouping, Role, State
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.soup.mixing import mixed
from gnnsoup_hpc.soup.shelf import Shelf
from gnnsoup_hpc.store import ingredient as ingredient_store
from gnnsoup_hpc.store.graph import GraphFile
from gnnsoup_hpc.subgraph import View


@dataclass(frozen=True)
class Taste:
    """A mixture whose accuracy is asked for. alpha (G, N); `of` weights, or of predictions (an ensemble)."""

    alpha: Tensor
    by: Grouping = "model"
    of: str = "weights"


class Station:
    """Reads the shelf and the whole graph when first asked for them; `clear` gives both back."""

    def __init__(
        self, run: RunDir, architecture: Architecture, ids: Sequence[int], graph: GraphFile, device: torch.device
    ) -> None:
        self.architecture = architecture
        self.graph = graph
        self.device = device
        self._run = run
        self._ids = tuple(ids)
        self._shelf: Shelf | None = None
        self._whole: View | None = None
        self.meter = Meter(device)

    @property
    def size(self) -> int:
        """N."""
        return len(self._ids)

    @property
    def shelf(self) -> Shelf:
        """All ingredients."""
        if self._shelf is None:
            with self.meter.phase("ingredients"):
                states = [ingredient_store.read(self._run.ingredient(index)).state for index in self._ids]
                self._shelf = Shelf.of(self.architecture, self._ids, states, self.device)
        return self._shelf

    @property
    def whole(self) -> View:
        """The whole graph as validation sees it."""
        if self._whole is None:
            with self.meter.phase("graph"):
                self._whole = stream.whole(self.graph, Role.VALIDATION).to(self.device)
        return self._whole

    def state(self, taste: Taste) -> State | None:
        """The weights of a mixture; None for an ensemble, which is no one model."""
        if taste.of == "predictions":
            return None
        with torch.no_grad():
            return mixed(self.shelf, taste.alpha.to(self.device), taste.by)

    def accuracy(self, taste: Taste, view: View | None = None) -> float:
        """Accuracy of a mixture on the validation nodes, or on those of another view."""
        view = self.whole if view is None else view
        state = self.state(taste)
        if state is not None:
            return evaluate.of_weights(self.architecture, state, view)
        chosen = taste.alpha[0].nonzero().flatten().tolist()
        states = (self.shelf.state(self.shelf.weights[i]) for i in chosen)
        return evaluate.of_ensemble(self.architecture, states, view)

    def clear(self) -> None:
        """Give the graph and the ingredients back, and begin to measure afresh."""
        self._shelf = self._whole = None
        self.meter = Meter(self.device)
