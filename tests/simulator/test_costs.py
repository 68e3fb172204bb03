"""A simulated step takes what the planner says where experts are asked for evenly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from support.small_simulation import DEVICE, LINK, SHAPE, deployment

from services.planner.families import DEEPSEEK_V3, FLASH_CHAT, LONGCAT_2
from services.planner.layer import Pools
from services.planner.one_machine import SERVING, Point, shared_core, step
from services.planner.serving import Load
from services.planner.step import separate_step
from services.router.placement.policy import WorkerView, place
from services.simulator.expert_pool import GRID, ExpertPool
from services.simulator.routing import Popularity, Routing
from services.simulator.step_time import StepTimes, StepWork


def pool_of(shaped: object, share_LE: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None) -> ExpertPool:
    assert isinstance(shaped, type(deployment()))
    shape = shaped.shape
    workers = [WorkerView(f"expert-{number}") for number in range(shaped.experts)]
    even = np.full((shape.layers, shape.experts), 1 / shape.experts)
    table = place(shape.experts, shape.layers, workers, shaped.replicas)
    return ExpertPool(shaped, table, even if share_LE is None else share_LE)


@pytest.mark.parametrize("shape", [SHAPE, FLASH_CHAT], ids=["small", "LongCat-Flash"])
@pytest.mark.parametrize(("attention", "experts", "sequences"), [(1, 1, 1), (1, 4, 16), (32, 16, 64)])
def test_a_step_of_decodes_is_the_planners(shape: object, attention: int, experts: int, sequences: int) -> None:
    assert isinstance(shape, type(SHAPE))
    shaped = deployment(shape=shape, attention=attention, experts=experts, replicas=1)
    pool = pool_of(shaped)
    times = StepTimes(shaped, pool)
    times.callers, times.rows = attention, float(sequences)
    context = 1000.0
    pools = Pools(attention=attention, experts=experts, attention_device=DEVICE, expert_device=DEVICE, link=LINK)
    planned = separate_step(shape, Load(sequences, context), shaped.serving, pools).seconds
    found = times.seconds(StepWork(sequences, 0, sequences * context, 0.0))
    assert found == pytest.approx(planned, rel=0.05)  # between the rows that were computed it is interpolated
    if attention == 1 and float(sequences) in GRID:
        assert found == pytest.approx(planned, rel=5e-3)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_cluster_of_one_machine_is_what_calibration_fits(replicas: int) -> None:
    point = Point(SHAPE, 16, 2, 100.0, replicas)
    expert_device = shared_core(DEVICE, 2)
    shaped = deployment(attention=1, experts=2, replicas=replicas, expert_device=expert_device, serving=SERVING)
    times = StepTimes(shaped, pool_of(shaped))
    found = times.seconds(StepWork(16, 0, 1600.0, 0.0))
    assert found == pytest.approx(step(point, DEVICE, LINK).seconds, rel=1e-2)


def test_skew_a_slow_worker_and_a_slow_link_each_take_longer_and_prompts_do() -> None:
    shaped = deployment(replicas=1)
    work = StepWork(64, 0, 64_000.0, 0.0)
    even = StepTimes(shaped, pool_of(shaped)).seconds(work)
    skewed = pool_of(shaped, Popularity(Routing(exponent=1.5), SHAPE.layers, SHAPE.experts, 1).at(0.0))
    assert StepTimes(shaped, skewed).seconds(work) > even
    for kind in ("slow", "link"):
        pool = pool_of(shaped)
        getattr(pool, kind)["expert-1"] = 20.0
        pool.update()
        assert StepTimes(shaped, pool).seconds(work) > even
    assert StepTimes(shaped, pool_of(shaped)).seconds(replace(work, prompt_rows=200, prompt_keys=20_000.0)) > even


def test_a_model_that_is_not_simulated_is_refused_by_name() -> None:
    for shape in (LONGCAT_2, DEEPSEEK_V3):
        with pytest.raises(ValueError, match=f"^{shape.name} has shared experts"):
            deployment(shape=shape)
    with pytest.raises(ValueError, match="at least one"):
        deployment(attention=0)


def test_choices_drift_from_one_order_to_another_and_a_crowd_takes_its_share() -> None:
    popularity = Popularity(Routing(exponent=1.0, drift_s=100.0, crowd=(40.0, 60.0), crowd_share=0.5), 2, 16, 7)
    shares = {at: popularity.at(at) for at in (0.0, 30.0, 50.0, 99.999, 100.0)}
    assert all(np.allclose(share_LE.sum(axis=1), 1) for share_LE in shares.values())
    assert not np.allclose(shares[0.0], shares[30.0])
    assert np.allclose(shares[99.999], shares[100.0], rtol=1e-3)
    assert np.sort(shares[50.0], axis=1)[:, -4:].sum() > 1.0 > np.sort(shares[30.0], axis=1)[:, -1].sum()
    assert math.isclose(float(Popularity(Routing(exponent=0.0), 2, 16, 7).at(0.0).max()), 1 / 16)
