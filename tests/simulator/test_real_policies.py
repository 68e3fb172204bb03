"""What decides in a simulated cluster is what decides in a real one."""

from __future__ import annotations

import asyncio

import pytest
from support.small_simulation import deployment

from services.attention_worker.engine import pages, scheduler
from services.router.dispatch import retry
from services.router.placement import balance_budget, plan
from services.router.requests import admission, fair_queue, progress, worker_choice
from services.simulator import attention, expert_retry, leader, router
from services.simulator.cluster import SimulatedCluster
from services.simulator.routing import Routing
from services.simulator.virtual_time import NothingLeft, VirtualLoop, run


def test_policies_are_imported_and_not_made_again() -> None:
    assert attention.Scheduler is scheduler.Scheduler
    assert attention.PagePool is pages.PagePool
    assert router.Admission is admission.Admission
    assert router.choose_worker is worker_choice.choose_worker
    assert router.GenerationProgress is progress.GenerationProgress
    assert router.retry_pause_s is progress.retry_pause_s
    assert expert_retry.choose_retry is retry.choose_retry
    assert leader.make_plan is plan.make_plan
    assert leader.BalanceBudget is balance_budget.BalanceBudget


def test_a_cluster_has_them_and_their_clock_is_virtual() -> None:
    async def main(loop: VirtualLoop) -> None:
        cluster = SimulatedCluster(deployment(), Routing(), loop, 1)
        for each in cluster.routers:
            assert isinstance(each.admission._queue, fair_queue.FairQueue)
            assert each.admission.now() == loop.time() == 0.0
        await asyncio.sleep(100.0)
        assert cluster.routers[0].admission.now() == pytest.approx(100.0)

    run(main)


def test_timers_come_in_their_order_and_who_waits_for_nothing_is_noticed() -> None:
    came: list[float] = []

    async def main(loop: VirtualLoop) -> None:
        for at in (5.0, 1.0, 3.0):
            loop.call_at(at, came.append, at)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4.0):
                await asyncio.Event().wait()
        assert loop.time() == pytest.approx(4.0)
        await asyncio.sleep(2.0)

    run(main)
    assert came == [1.0, 3.0, 5.0]

    async def never(_: VirtualLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingLeft):
        run(never)
