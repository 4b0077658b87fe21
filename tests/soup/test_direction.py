"""A metric of which a low value is good: methods choose as they do by its opposite, and record it as it is."""

from __future__ import annotations

import numpy as np
import pytest

from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.evaluation import evaluator
from gnnsoup_hpc.runtime.comm import SERIAL
from tests.error_rate import ErrorRate
from tests.ranks.souping import run_case


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_methods_choose_by_the_score(method: str, trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    high = run_case(SERIAL, trained, method)
    monkeypatch.setattr(evaluator, "make_task", lambda job, graph: ErrorRate(graph.classes))
    low = run_case(SERIAL, trained, method)
    np.testing.assert_array_equal(low.alpha, high.alpha)
    np.testing.assert_allclose(low.history[:, 2], 1.0 - high.history[:, 2], atol=1e-15)
    assert low.metrics == pytest.approx([1.0 - metric for metric in high.metrics])
