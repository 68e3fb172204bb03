"""What decides in a simulated cluster is what decides in a real one."""

from __future__ import annotations

import asyncio
from types import ModuleType

import pytest
from support.small_simulation import deployment

from services.attention_worker import hint_pace
from services.attention_worker.engine import pages, scheduler
from services.attention_worker.migration import estimate
from services.prefixes import page_filter, page_names
from services.router.dispatch import call_latency, retry, suspects
from services.router.placement import balance_budget, plan, worker_registry
from services.router.requests import (
    admission,
    failover,
    fair_queue,
    prefix_hints,
    prefix_lookup,
    progress,
    stall_detector,
    worker_choice,
)
from services.simulator import (
    attention,
    expert_lateness,
    expert_registry,
    expert_retry,
    expert_side,
    generation,
    leader,
    page_fetches,
    prefix_reports,
    router,
    watch,
)
from services.simulator.cluster import SimulatedCluster
from services.simulator.routing import Routing
from services.simulator.virtual_time import NothingLeft, VirtualLoop, run


@pytest.mark.parametrize(
    ("here", "there", "names"),
    [
        (attention, scheduler, {"Scheduler"}),
        (attention, pages, {"PagePool"}),
        (router, admission, {"Admission"}),
        (router, worker_choice, {"choose_worker"}),
        (router, prefix_hints, {"PrefixHints"}),
        (router, prefix_lookup, {"PrefixLookup"}),
        (prefix_reports, hint_pace, {"HintPace"}),
        (prefix_reports, page_filter, {"PageFilter"}),
        (generation, page_names, {"PageNames"}),
        (router, progress, {"GenerationProgress"}),
        (router, failover, {"recover"}),
        (watch, stall_detector, {"StallDetector"}),
        (expert_lateness, call_latency, {"Latencies", "HedgeBudget"}),
        (expert_side, suspects, {"Suspects"}),
        (expert_registry, worker_registry, {"WorkerRegistry"}),
        (page_fetches, estimate, {"TransferRate", "compute_s", "too_slow"}),
        (expert_retry, retry, {"choose_retry", "record_failure"}),
        (leader, plan, {"make_plan"}),
        (leader, balance_budget, {"BalanceBudget"}),
    ],
)
def test_policies_are_imported_and_not_made_again(here: ModuleType, there: ModuleType, names: set[str]) -> None:
    assert all(vars(here)[name] is vars(there)[name] for name in names)


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
