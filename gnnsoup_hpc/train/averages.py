"""Averages of the weights of one training, which are judged and kept in their place.

Sources: averages over steps, Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992; here a running one, whose decay
is less in the first steps, as TensorFlow's ExponentialMovingAverage has it. SWA, Izmailov et al., UAI 2018, arXiv
1803.05407.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.types import State


@dataclass
class WeightAverage:
    """The average so far, over `count` steps or epochs; without a state until there is one."""

    how: Hyperparameters
    state: State = field(default_factory=dict)
    count: int = 0

    def note_step(self, parameters: Mapping[str, Tensor]) -> None:
        """After a step of the optimiser."""
        if self.how.average == "ema":
            self._add(parameters, 1.0 - min(self.how.average_decay, (1 + self.count) / (10 + self.count)))

    def note_epoch(self, parameters: Mapping[str, Tensor], epoch: int) -> None:
        """After an epoch, from 1."""
        if self.how.average == "swa" and epoch > self.how.average_from * self.how.epochs:
            self._add(parameters, 1.0 / (self.count + 1))

    @torch.no_grad()
    def _add(self, parameters: Mapping[str, Tensor], share: float) -> None:
        if not self.count:
            self.state = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        for name, tensor in parameters.items() if self.count else ():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, share)
            else:
                self.state[name].copy_(tensor)  # a count has no average
        self.count += 1
