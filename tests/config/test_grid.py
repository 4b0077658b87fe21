"""[sweep] of training: its combinations are ordinary jobs, by models in joint runs; its mistakes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.config.grid import choose_joint_run, expand_grid, list_jobs, list_joint_runs
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.runtime.run_dir import RunDir

SWEEP = ("sweep.train.learning_rate=[0.01, 0.1]", "sweep.model.hidden=[8, 16]", "sweep.train.seed=[3]")

MANY = list(range(1, 102))


def swept(*overrides: str) -> Job:
    return load_job("pubmed", overrides)


def test_combinations_are_the_product_of_both_tables_lists() -> None:
    found = expand_grid(swept(*SWEEP))
    assert [(run.job.model.hidden, run.job.train.learning_rate, run.job.train.seed) for run in found] == [
        (8, 0.01, 3),
        (8, 0.1, 3),
        (16, 0.01, 3),
        (16, 0.1, 3),
    ]
    assert found[1].text == "model.hidden = 8, train.learning_rate = 0.1, train.seed = 3"
    assert RunDir.of(found[1].job).root == Path("runs/pubmed/grid/hidden-8_learning_rate-0.1_seed-3")


def test_a_combination_is_the_ordinary_job_with_its_values() -> None:
    first = expand_grid(swept(*SWEEP, "sweep.pls.union=[2, 4]"))[0].job
    wanted = swept("train.learning_rate=0.01", "model.hidden=8", "train.seed=3", "sweep.pls.union=[2, 4]")
    assert first == wanted.model_copy(update={"name": first.name, "runs": "runs/pubmed/grid"})
    assert jobs.validate(tomllib.loads(first.to_toml()), "again") == first
    assert list_jobs(wanted) == (wanted,)


def test_combinations_of_equal_models_are_souped_in_a_joint_run() -> None:
    joint_runs = list_joint_runs(swept(*SWEEP))
    assert [(RunDir.of(joint.job).root.name, len(joint.runs)) for joint in joint_runs] == [
        ("hidden-8", 2),
        ("hidden-16", 2),
    ]
    assert [joint.job.model.hidden for joint in joint_runs] == [8, 16]
    assert not joint_runs[0].job.sweep
    assert joint_runs[0].count_ingredients().train.ingredients == 2 * swept().train.ingredients
    (alone,) = list_joint_runs(swept(*SWEEP[::2]))
    assert RunDir.of(alone.job).root == Path("runs/pubmed/joint/all")
    assert choose_joint_run(swept(*SWEEP[::2])) == alone.job
    assert choose_joint_run(swept()) == swept()
    with pytest.raises(RunError, match="name the folder of one of them, runs/pubmed/joint/hidden-8, runs/pubmed/jo"):
        choose_joint_run(swept(*SWEEP))


def test_values_that_make_no_name_are_hashed() -> None:
    job = swept("sweep.train.fanout=[[2, 3], [4]]", 'sweep.model.arguments=[{ act = "elu" }, {}]')
    names = [run.job.name for run in expand_grid(job)]
    assert len(set(names)) == 4
    assert all(Job.model_validate(job.model_dump() | {"name": name}) for name in names)
    many = {name: [1, 2] for name in ("epochs", "patience", "clip_norm", "batch_size", "validate_every", "seed")}
    of_many = swept(*(f"sweep.train.{name}={values}" for name, values in many.items()), "sweep.train.dropout=[0.1]")
    assert len({run.job.name for run in expand_grid(of_many)}) == 64
    assert max(len(run.job.name) for run in expand_grid(of_many)) <= 120


def test_a_resolved_sweep_of_training_loads_to_an_equal_job() -> None:
    job = swept(*SWEEP)
    for text in (job.to_toml(), jobs.explain(job)):
        assert jobs.validate(tomllib.loads(text), "again") == job
    assert "# hidden channels" in jobs.explain(job).split("[sweep.model]")[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.train.learning_rat=[1.0]", "the nearest known one is 'sweep.train.learning_rate'"),
        (
            "sweep.graph.split_seed=[1]",
            "sweep.graph cannot be swept: [sweep] has lists for seed, gis, ls, pls, distil, train",
        ),
        ("sweep.grahp.split_seed=[1]", "unknown key 'sweep.grahp'; the nearest known one is 'sweep.train'"),
        ("sweep.train.ingredients=[2, 3]", "sweep.train.ingredients has no meaning: each combination trains as many"),
        ("sweep.train.vary=[{}]", "sweep.train.vary has no meaning: it varies values among the ingredients of one run"),
        ("sweep.model.groups=[[]]", "sweep.model.groups has no meaning"),
        ("sweep.train.clusters=[0]", "sweep.train.clusters = 0 would leave a value to the memory limit"),
        ("sweep.train.epochs=['x']", "with sweep.train.epochs = 'x': input should be a valid integer"),
        ("sweep.train.warmup_epochs=[0, 999]", "with sweep.train.warmup_epochs = 999: warmup_epochs = 999 leaves none"),
        ("sweep.model.kind=['gat', 'gnn']", "with sweep.model.kind = 'gnn': input should be 'gcn'"),
        ("sweep.model.kind=['gcm']", "'edgecnn' or 'module'; the nearest known one is 'gcn'"),
        ("sweep.model.heads=[1, 2]", "with model.heads = 2: model: heads = 2 is for kind = 'gat' or 'gatv2'"),
        ("sweep.train.learning_rate=[1, 1.0]", "the sweep of training lists a value twice"),
        ("sweep.train.seed=[1, 1]", "lists a value twice"),
        ("sweep.model.arguments=[{ a = [1], b = 2 }, { b = 2, a = [1] }]", "lists a value twice"),
        (f"sweep.train={{ seed = {MANY}, epochs = {MANY} }}", "has 10201 combinations, more than 10000"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(JobError) as error:
        swept(override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
