"""The soak, shortened: `make soak` runs the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kit
from tests.soak.storm import Plan, Storm, differences, quiet


@pytest.mark.slow
@pytest.mark.mpi
def test_nothing_is_lost_in_a_short_storm(tmp_path: Path) -> None:
    plan = Plan(ingredients=6, epochs=100, kills=5, souping_kills=1, ranks=3)
    calm = quiet(tmp_path / "calm", plan)
    said: list[str] = []
    storm = Storm(kit.make_workdir(tmp_path / "storm"), plan, said.append)
    storm.blow()
    assert storm.kills >= plan.kills, storm.counts
    assert storm.problems == [], said
    assert differences(storm, calm) == [], said
    assert storm.counts["trained"] <= plan.ingredients + storm.kills
