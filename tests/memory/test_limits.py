"""What a memory limit chooses and refuses, from sizes and through the command line."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gnnsoup_hpc.config import Job, format_bytes, parse_bytes
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.errors import JobError, MemoryLimitError
from gnnsoup_hpc.memory import estimate, limits
from gnnsoup_hpc.memory.estimate import MIB, Sizes
from gnnsoup_hpc.memory.limits import Demand, Limit
from gnnsoup_hpc.models.gnn import Architecture
from tests import runs
from tests.memory.test_estimate import PRODUCTS

GIB = 1024 * MIB


def limit(most: int) -> Limit:
    return Limit(most, most, 512 * MIB, f"machine.memory_limit = '{most}'")


def job(*overrides: str) -> Job:
    return jobs.load("quick-sage-products", overrides)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2 GiB", 2 * GIB),
        ("500 MiB", 500 * MIB),
        ("500MiB", 500 * MIB),
        ("1.5 GB", 1_500_000_000),
        ("1.5 gib", 3 * GIB // 2),
        ("64 KB", 64_000),
        ("123456789", 123_456_789),
        ("10 b", 10),
        (" 1 TiB ", 1024 * GIB),
        ("auto", None),
        (" AUTO ", None),
    ],
)
def test_sizes_as_people_write_them(text: str, count: int | None) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["two", "", "2 G", "-1 GiB", "0", "0 GiB", "1e9", "2 GiB 3", "GiB", "1..5 GB", "nan"])
def test_a_text_that_is_no_size_is_one_clear_line(text: str) -> None:
    with pytest.raises(JobError) as error:
        jobs.load("pubmed", [f"machine.memory_limit={text}"])
    assert "machine.memory_limit" in str(error.value)
    assert repr(text) in str(error.value)
    assert "'2 GiB'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_of_bytes_may_stand_in_a_job_file() -> None:
    assert jobs.validate({"name": "x", "machine": {"memory_limit": 2 * GIB}}, "x").machine.memory_limit == str(2 * GIB)
    assert jobs.load("pubmed", [f"machine.memory_limit={GIB}"]).machine.memory_limit == str(GIB)
    with pytest.raises(JobError, match="memory_limit"):
        jobs.validate({"name": "x", "machine": {"memory_limit": True}}, "x")


@pytest.mark.parametrize(
    ("count", "text"), [(2 * GIB, "2 GiB"), (GIB + 1, "1.1 GiB"), (200 * MIB, "200 MiB"), (200 * MIB + 1, "201 MiB")]
)
def test_a_told_size_is_never_too_small(count: int, text: str) -> None:
    assert format_bytes(count) == text
    assert (parse_bytes(text) or 0) >= count


def test_the_default_is_half_of_the_memory_and_refuses_only_above_all_of_it() -> None:
    ours = Limit.of(jobs.load("pubmed"), runs.ALONE)
    assert ours.refused == 2 * ours.most
    shared = Limit.of(jobs.load("pubmed"), replace(runs.ALONE, local_size=2))
    assert shared.most == ours.most // 2
    given = Limit.of(jobs.load("pubmed", ["machine.memory_limit=3 GiB"]), runs.ALONE)
    assert given.most == given.refused == 3 * GIB


def test_room_and_need_are_the_two_sides_of_one_rule() -> None:
    ours = limit(3 * GIB)
    assert ours.needed(ours.room) <= 3 * GIB < ours.needed(ours.room + 16)
    assert limit(200 * MIB).room == 0


def test_an_integer_is_kept_or_refused_with_the_largest_that_fits() -> None:
    decided, demands = limits.plan_souping(job("soup.pls.union=8"), PRODUCTS, limit(2 * GIB))
    assert decided.soup.pls.union == 8
    with pytest.raises(MemoryLimitError) as error:
        limits.refuse(limit(2 * GIB), demands)
    found = re.search(r"soup\.pls\.union = (\d) \(the largest that fits\)", str(error.value))
    assert found, str(error.value)
    largest = int(found[1])
    assert 0 < largest < 8
    needs = {size: limit(2 * GIB).needed(estimate.pls(PRODUCTS, 2, size)) for size in (largest, largest + 1)}
    assert needs[largest] <= 2 * GIB < needs[largest + 1]
    assert format_bytes(limit(2 * GIB).needed(estimate.pls(PRODUCTS, 2, 8))) in str(error.value)


def test_distil_takes_all_parts_that_fit() -> None:
    def chosen(most: int) -> int:
        asked = job("soup.distil.union=0", "soup.methods=['distil']")
        return limits.plan_souping(asked, PRODUCTS, limit(most))[0].soup.distil.union

    found = [chosen(most) for most in (GIB, 2 * GIB, 4 * GIB, 8 * GIB, 100 * GIB)]
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (1, 32)
    _, demands = limits.plan_souping(job("soup.distil.union=8", "soup.methods=['distil']"), PRODUCTS, limit(2 * GIB))
    with pytest.raises(
        MemoryLimitError, match=rf"distil on unions of 8 .* soup\.distil\.union = {found[1]} \(the largest that fits\)"
    ):
        limits.refuse(limit(2 * GIB), demands)


@pytest.mark.parametrize("field", ["soup.pls.union", "train.clusters"])
def test_zero_becomes_the_largest_number_that_fits(field: str) -> None:
    def chosen(most: int) -> int:
        asked = job(f"{field}=0")
        if field == "soup.pls.union":
            return limits.plan_souping(asked, PRODUCTS, limit(most))[0].soup.pls.union
        return limits.plan_training(asked, PRODUCTS, limit(most), PRODUCTS.engine)[0].train.clusters

    found = [chosen(most) for most in range(GIB, 12 * GIB, GIB // 4)]
    assert found == sorted(found)
    assert found[0] == 1
    assert found[-1] == estimate.MOST_PARTS
    assert len(set(found)) > 4
    assert found == [chosen(most) for most in range(GIB, 12 * GIB, GIB // 4)]


def test_alignment_by_activations_is_a_demand_of_its_own() -> None:
    """It streams unions too, whose size then has to suit it as well."""
    few, ours = ['soup.methods=["uniform"]', "soup.align=activations"], limit(2 * GIB)
    _, demands = limits.plan_souping(job(*few, "soup.pls.union=8"), PRODUCTS, ours)
    with pytest.raises(
        MemoryLimitError, match=r"alignment by activations on unions of 8 of 32 parts needs .*pls.union = "
    ):
        limits.refuse(ours, demands)
    decided, demands = limits.plan_souping(job(*few, "soup.pls.union=0"), PRODUCTS, ours)
    limits.refuse(ours, demands)
    size = decided.soup.pls.union
    needs = [ours.needed(estimate.activations(PRODUCTS, 2, union)) for union in (size, size + 1)]
    assert needs[0] <= 2 * GIB < needs[1]


def test_there_are_no_more_parts_than_there_are() -> None:
    few = Sizes(PRODUCTS.net, np.array([10, 10]), np.array([40, 40]), np.array([2, 2]), 0.1)
    decided, _ = limits.plan_souping(job("soup.pls.union=0"), few, limit(100 * GIB))
    assert decided.soup.pls.union == 2


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (['soup.methods=["ls"]'], ["ls, on the whole graph", "pls"]),
        (["train.batch=full"], ["full batches", "train.batch = 'cluster'"]),
        (["train.batch=neighbour", "train.fanout=[10]"], ["neighbour batches", "train.batch = 'cluster'"]),
        (["train.batch=cluster", "train.clusters=32"], ["32 of 32 parts", "train.clusters = "]),
        (["train.ingredients=100000"], ["100000 ingredients"]),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(overrides: list[str], names: list[str]) -> None:
    asked, ours = job(*overrides), limit(3 * GIB)
    demands = (
        limits.plan_training(asked, PRODUCTS, ours, PRODUCTS.engine)[1] + limits.plan_souping(asked, PRODUCTS, ours)[1]
    )
    with pytest.raises(MemoryLimitError) as error:
        limits.refuse(ours, demands)
    for name in [*names, "needs", "GiB", "Give at least"]:
        assert name in str(error.value)
    enough = parse_bytes(re.findall(r"--memory-limit '([^']*)'", str(error.value))[0]) or 0
    limits.refuse(limit(enough), demands)


@pytest.mark.parametrize("most", [MIB * size for size in range(520, 4000, 60)])
@pytest.mark.parametrize("words", [["train.batch=full"], ["train.batch=neighbour"]])
def test_a_batch_that_is_named_instead_would_do(most: int, words: list[str]) -> None:
    ours = limit(most)
    try:
        limits.refuse(ours, limits.plan_training(job(*words), PRODUCTS, ours, PRODUCTS.engine)[1])
    except MemoryLimitError as error:
        if "train.batch = 'cluster'" in str(error):
            instead = job("train.batch=cluster", "train.clusters=1")
            limits.refuse(ours, limits.plan_training(instead, PRODUCTS, ours, PRODUCTS.engine)[1])


def test_another_way_is_named_only_where_all_that_is_too_large_has_one() -> None:
    ours, too_much = limit(GIB), limit(GIB).room + 2
    with pytest.raises(MemoryLimitError, match=r"or use that$"):
        limits.refuse(ours, [Demand("this", too_much, "that")])
    with pytest.raises(MemoryLimitError, match=r"GiB'$"):
        limits.refuse(ours, [Demand("this", too_much, "that"), Demand("other", too_much)])


def test_everything_of_the_bundled_job_fits_in_three_gib() -> None:
    for decided in (partial(limits.plan_training, engine=PRODUCTS.engine), limits.plan_souping):
        limits.refuse(limit(3 * GIB), decided(job(), PRODUCTS, limit(3 * GIB))[1])
        with pytest.raises(MemoryLimitError):
            limits.refuse(limit(200 * MIB), decided(job(), PRODUCTS, limit(200 * MIB))[1])


def test_the_way_of_telling_accuracies_follows_the_bytes() -> None:
    assert limits.describe_evaluation(PRODUCTS, 100 * GIB) == "in memory"
    assert (
        limits.describe_evaluation(PRODUCTS, 5 * GIB // 2) == "layer by layer, 1 of 2 hidden layers spilled to a file"
    )
    assert limits.describe_evaluation(PRODUCTS, GIB) == "layer by layer, 2 of 2 hidden layers spilled to a file"


def test_nothing_is_refused_that_fits() -> None:
    limits.refuse(limit(GIB), [Demand("this", limit(GIB).room)])
    with pytest.raises(MemoryLimitError, match=r"this needs .*, or use that$"):
        limits.refuse(limit(GIB), [Demand("this", limit(GIB).room + 2, "that")])


def test_sizes_of_a_model_do_not_depend_on_the_ingredients() -> None:
    net = Architecture("gcn", 2, 10, 16, 3)
    assert estimate.mixing(net, 2) - estimate.mixing(net, 1) == 4 * estimate.parameters(net)


@pytest.mark.parametrize("batch", ["full", "cluster", "neighbour"])
@pytest.mark.parametrize("what", ["edges", "features"])
def test_dropping_is_asked_for_by_name_or_by_turn(what: str, batch: str) -> None:
    def most(*overrides: str) -> int:
        asked = job(f"train.batch={batch}", "train.clusters=2", *overrides)
        return max(demand.work for demand in limits.plan_training(asked, PRODUCTS, limit(64 * GIB), PRODUCTS.engine)[1])

    assert most() < most(f"train.drop_{what}=0.1") == most(f"train.vary.drop_{what}=[0.0, 0.1]")
    assert most() == most(f"train.vary.drop_{what}=[0.0]")
