"""[sweep] of a job: its grid, its mistakes, and that a job without one is as it was."""

from __future__ import annotations

import tomllib

import pytest

from gnnsoup_hpc.config import Job, SweepJob, expand_grids
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.errors import JobError


def swept(*overrides: str) -> Job:
    return jobs.load("pubmed", overrides)


def test_cells_are_the_product_of_a_methods_lists_and_the_seeds() -> None:
    job = swept(
        "sweep.seed=[3, 4]", "sweep.pls.union=[2, 8]", "sweep.pls.learning_rate=[0.1]", "sweep.gis.granularity=[5]"
    )
    grids = expand_grids(job)
    assert {method: len(cells) for method, cells in grids.items()} == {"gis": 1, "ls": 2, "pls": 4}
    assert [tuple(cell.values.values()) for cell in grids["pls"]] == [
        (3, 2, 0.1),
        (3, 8, 0.1),
        (4, 2, 0.1),
        (4, 8, 0.1),
    ]
    assert grids["pls"][1].text == "seed = 3, union = 8, learning_rate = 0.1"
    assert dict(grids["gis"][0].values) == {"granularity": 5}  # draws nothing, so its seed is not swept


def test_a_cell_is_the_job_with_its_values_in_place() -> None:
    job = swept("sweep.seed=[3]", "sweep.pls.union=[2]", "soup.pls.epochs=7")
    cell = expand_grids(job)["pls"][0]
    wanted = swept("soup.seed=3", "soup.pls.union=2", "soup.pls.epochs=7")
    assert cell.job == wanted
    assert not cell.job.sweep


def test_text_and_truth_values_can_be_swept() -> None:
    cells = expand_grids(swept('sweep.ls.optimiser=["lbfgs", "eg"]', "sweep.ls.logit_scale=[true, false]"))["ls"]
    assert [(c.job.soup.ls.optimiser, c.job.soup.ls.logit_scale) for c in cells] == [
        ("lbfgs", True),
        ("lbfgs", False),
        ("eg", True),
        ("eg", False),
    ]


def test_a_resolved_sweep_loads_to_an_equal_job() -> None:
    job = swept("sweep.seed=[3, 4]", "sweep.pls.union=[2, 8]", "sweep.ls.weights=['free']")
    for text in (job.to_toml(), jobs.explain(job)):
        assert jobs.validate(tomllib.loads(text), "again") == job
    assert jobs.validate(job.model_dump(mode="json"), "again") == job
    assert "# R, the parts whose union" in jobs.explain(job).split("[sweep.pls]")[1]


def test_dotted_keys_in_the_table_are_the_same() -> None:
    tree = tomllib.loads('name = "a"\n[sweep]\nseed = [1]\npls.union = [2, 4]\n')
    assert jobs.validate(tree, "here").sweep == swept("sweep.seed=[1]", "sweep.pls.union=[2, 4]").sweep


def test_a_job_without_a_sweep_is_written_as_before() -> None:
    job = swept()
    assert "sweep" not in job.to_toml()
    assert expand_grids(job) == {}
    assert "\n# [sweep]\n" in jobs.explain(job)


def test_repeated_values_are_looked_for_without_comparing_all_pairs() -> None:
    compared = 0

    class Value(int):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    SweepJob(train={"seed": tuple(Value(number) for number in range(1000))})
    assert compared < 10_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.pls.unoin=[4]", "unknown key 'sweep.pls.unoin'; the nearest known one is 'sweep.pls.union'"),
        ("sweep.greedy.x=[4]", "unknown key 'sweep.greedy'"),
        ("sweep.pls.union=[]", r"sweep.pls.union = \[\]: list should have at least 1 item"),
        ("sweep.pls.union=4", "sweep.pls.union = 4: input should be a list"),
        ("sweep.pls=4", "sweep.pls = 4: input should be a table"),
        ("sweep.pls.union=['x']", "with sweep.pls.union = 'x': input should be a valid integer"),
        ("sweep.pls.union=[4, 64]", r"with sweep.pls.union = 64: soup.pls.union = 64 parts \(R\) cannot be drawn"),
        ("sweep.pls.union=[0]", "sweep.pls.union = 0 would leave a value to the memory limit"),
        ("sweep.distil.dropout=[0.1]", "sweep.distil is given, but soup.methods has no 'distil'"),
        ("sweep.pls.union=[4, 4]", r"union = \[4, 4\] lists a value twice"),
        ("sweep.seed=[1, 1]", r"seed = \[1, 1\] lists a value twice"),
        ("sweep.seed=[-1]", "sweep.seed.0 = -1: input should be greater than or equal to 0"),
        ("sweep.ls.learning_rate=[1.0]", "optimiser = 'lbfgs' has none, it searches"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(JobError, match=message) as error:
        swept(override)
    assert "\n" not in str(error.value)


def test_what_is_not_made_cannot_be_swept() -> None:
    with pytest.raises(JobError, match=r"sweep.pls is given, but soup.methods has no 'pls'"):
        swept("sweep.pls.union=[4]", 'soup.methods=["gis"]')
    with pytest.raises(JobError, match=r"sweep.seed is for ls, pls and distil, and soup.methods has none"):
        swept("sweep.seed=[4]", 'soup.methods=["gis"]')


def test_distil_begins_at_a_soup_that_is_made_before_it() -> None:
    late = 'soup.methods=["distil", "ls"]'
    for start in ("soup.distil.start=ls", 'sweep.distil.start=["uniform", "ls"]'):
        with pytest.raises(JobError, match=r"soup.distil.start = 'ls', and soup.methods has 'ls' after 'distil'"):
            swept(late, start)
        swept('soup.methods=["distil"]', start)  # for the run may have it
    both = 'soup.methods=["ls", "distil"]'
    with pytest.raises(JobError, match=r"the sweep chooses that soup after .* sweep.distil.start = \['ls'\]"):
        swept(both, "soup.distil.start=ls", "sweep.ls.epochs=[3, 4]")
    grids = expand_grids(swept(both, 'sweep.distil.start=["ls"]', "sweep.ls.epochs=[3, 4]"))
    assert [cell.text for cell in grids["distil"]] == ["start = ls"]


def test_a_grid_beyond_measure_is_refused() -> None:
    many = list(range(101))
    with pytest.raises(JobError, match=r"sweep.pls has 10201 combinations, more than 10000"):
        swept(f"sweep.seed={many}", f"sweep.pls.epochs={[n + 1 for n in many]}")
