"""Which alpha a learned method returns, of those that it has come by."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from torch import Tensor


class BestTracker(Protocol):
    """Told every evaluated alpha with its loss, and where every step led to."""

    alpha: Tensor

    def evaluated(self, alpha_GN: Tensor, loss: float, held_out: float) -> None:
        """Alpha was evaluated; `held_out` is the loss of held-out nodes, NaN where there are none."""

    def moved(self, alpha_GN: Tensor) -> None:
        """A step led to alpha."""


class LastTracker:
    """Where the last step led to."""

    def __init__(self, alpha_GN: Tensor) -> None:
        self.alpha = alpha_GN

    def evaluated(self, alpha_GN: Tensor, loss: float, held_out: float) -> None:
        """No matter."""

    def moved(self, alpha_GN: Tensor) -> None:
        """The last one so far."""
        self.alpha = alpha_GN


class LowestLossTracker(LastTracker):
    """The alpha with the lowest loss; of equals the first."""

    def __init__(self, alpha_GN: Tensor) -> None:
        super().__init__(alpha_GN)
        self._lowest = math.inf

    def evaluated(self, alpha_GN: Tensor, loss: float, held_out: float) -> None:
        """Kept where it is the best so far."""
        if loss < self._lowest:
            self.alpha, self._lowest = alpha_GN, loss

    def moved(self, alpha_GN: Tensor) -> None:
        """No matter: it was not evaluated yet."""


class HoldoutTracker(LowestLossTracker):
    """The alpha with the lowest loss on held-out nodes, as the mean of the last `window` evaluations that had any."""

    def __init__(self, alpha_GN: Tensor, window: int = 1) -> None:
        super().__init__(alpha_GN)
        self._recent: deque[float] = deque(maxlen=window)

    def evaluated(self, alpha_GN: Tensor, loss: float, held_out: float) -> None:
        """Judged once the window is full."""
        if math.isnan(held_out):
            return
        self._recent.append(held_out)
        if len(self._recent) == self._recent.maxlen:
            super().evaluated(alpha_GN, sum(self._recent) / len(self._recent), held_out)
        elif math.isinf(self._lowest):
            self.alpha = alpha_GN


class MeanTracker(LastTracker):
    """The mean of where all steps led."""

    def __init__(self, alpha_GN: Tensor) -> None:
        super().__init__(alpha_GN)
        self._count = 0

    def moved(self, alpha_GN: Tensor) -> None:
        """The mean so far."""
        self._count += 1
        self.alpha = alpha_GN if self._count == 1 else self.alpha + (alpha_GN - self.alpha) / self._count
