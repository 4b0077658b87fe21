"""The layers of PyG's models (torch_geometric.nn.models.BasicGNN), one by one on a block of rows.

What `BasicGNN.inference_per_layer` computes; of GCN, whose scale wants the in-degrees of a block's neighbours, exactly
too, for these are given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from gnnsoup_hpc.engine.measure import Slopes, measure_slopes
from gnnsoup_hpc.graph.subgraph import NORMALISED_SUM, Aggregation, Subgraph
from gnnsoup_hpc.models.base import LayeredModel, Model
from gnnsoup_hpc.models.kinds import PYG
from gnnsoup_hpc.models.module import ModuleModel
from gnnsoup_hpc.models.statistics import Calling, call_with

_OF_GCN = ("improved", "add_self_loops", "normalize", "flow")  # arguments that make its scale another one


@dataclass(frozen=True)
class ModuleLayers:
    """Layers of a model of one of PyG's classes, evaluated without gradients."""

    model: ModuleModel

    @property
    def layers(self) -> int:
        """L."""
        return self.model.layers

    @property
    def aggregation(self) -> Aggregation | None:
        """Of GCN, whose scale wants degrees with self-loops."""
        return NORMALISED_SUM if self.model.kind == "gcn" else None

    @property
    def node_bytes(self) -> int:
        """Of a column of a block, inputs and outputs beside what is measured."""
        widest = max(max(self.widths(layer)) for layer in range(self.layers))
        return 8 * widest + int(self._slopes.margin * self._slopes.node)

    @property
    def entry_values(self) -> int:
        """Bytes of an entry that a layer computes."""
        return int(self._slopes.margin * self._slopes.entry)

    @cached_property
    def _slopes(self) -> Slopes:
        return measure_slopes(self.model, "evaluate")

    def widths(self, layer: int) -> tuple[int, int]:
        """Channels that go into and come out of a layer."""
        into = self.model.features if layer == 0 else self.model.hidden
        return into, self.model.outputs if layer == self.layers - 1 else self.model.hidden

    def layer(self, state: Mapping[str, Tensor], layer: int, x: Tensor, graph: Subgraph) -> Tensor:
        """What one layer makes of the columns' states x (U, C): the rows' next ones, (V, C')."""
        module = self.model.template.to(x.device).eval()
        places = {f"module.{name}": tensor for name, tensor in state.items()}

        def run(module: Any, graph: Subgraph) -> Tensor:
            found = graph.adjacency.own(self._convolve(module.convs[layer], x, graph))
            last = layer == self.layers - 1
            if last and module.jk_mode is None:
                return found
            if module.act is not None and module.act_first:
                found = module.act(found)
            found = module.norms[layer](found)
            if module.act is not None and not module.act_first:
                found = module.act(found)
            made: Tensor = module.lin(found) if last else found
            return made

        made: Tensor = call_with(Calling(module, run), places, (graph,))
        return made

    def _convolve(self, convolution: nn.Module, x: Tensor, graph: Subgraph) -> Tensor:
        """Outputs of all columns, of which those that are rows are right."""
        if self.model.kind != "gcn":
            given: dict[str, Any] = {"edge_attr": graph.adjacency.edge_attr} if self.model.edge_features else {}
            found: Tensor = convolution(x, graph.adjacency.edge_index, **given)
            return found
        looped, values = graph.adjacency.gcn_entries
        with _as_given(convolution):
            scaled: Tensor = convolution(x, looped.edge_index, values)
        return scaled


@contextmanager
def _as_given(convolution: Any) -> Iterator[None]:
    """A GCNConv whose sums are of the edges that it is given, by their weights."""
    convolution.normalize = False
    try:
        yield
    finally:
        convolution.normalize = True


def find_layers(model: Model) -> LayeredModel | ModuleLayers | None:
    """A model's layers, of PyG's classes too; None where they cannot be computed one by one.

    That is of other modules, of those whose last layer looks at all layers (jk), and of a GCN of another scale.
    """
    if isinstance(model, LayeredModel):
        return model
    if not isinstance(model, ModuleModel) or model.kind not in PYG or model.find_far_reach():
        return None
    given = json.loads(model.arguments)
    if given.get("jk") not in (None, "last") or (model.kind == "gcn" and any(name in given for name in _OF_GCN)):
        return None
    return ModuleLayers(model)
