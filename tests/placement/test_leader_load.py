"""The leader moves experts for their load, within its budget, and keeps what it has balanced."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

import pytest
from support.fake_experts import FakeWorker
from support.leader_harness import EXPERTS, LAYERS, LOAD_S, LeaderHarness, run_scenario
from support.worker_processes import Store, redis_store

from services.router.placement.balance_budget import BalanceBudget

pytestmark = pytest.mark.processes

HOT = 1000.0
PLENTY, EXPERT_BYTES = 1e9, 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def budget(bytes_per_minute: float = PLENTY) -> BalanceBudget:
    return BalanceBudget(bytes_per_minute, EXPERT_BYTES, time.monotonic())


def heat(harness: LeaderHarness, worker: FakeWorker) -> set[tuple[int, int]]:
    """Makes what a worker has hot, and everything else cold; returns it."""
    hot = set(worker.loaded)
    for each in harness.workers:
        each.rates = {(layer, e): HOT if (layer, e) in hot else 1.0 for layer in range(LAYERS) for e in range(EXPERTS)}
    return hot


def prepares(harness: LeaderHarness) -> int:
    return sum(what == "prepare" for _, what, _ in harness.calls)


async def two_workers(harness: LeaderHarness) -> tuple[FakeWorker, FakeWorker]:
    first, second = await harness.join("expert", 0), await harness.join("expert", 1)
    await harness.loaded(4, 4)
    await harness.until(lambda: all(one.epoch == first.epoch == second.epoch > 0 for one in harness.leaders), "agreed")
    return first, second


def test_hot_experts_are_shared_out_and_then_stay(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead(budget=budget())
        first, second = await two_workers(harness)
        hot = heat(harness, first)
        await harness.until(lambda: len(hot & first.loaded) == len(hot & second.loaded) == 2, "two hot ones each")
        await harness.until(lambda: first.epoch == second.epoch == leader.epoch, "both have the table")
        epoch = leader.epoch
        await asyncio.sleep(4 * LOAD_S)
        assert leader.epoch == epoch, "the same load moves nothing more"

    run_scenario(store, scenario)


def test_a_hot_expert_gets_another_replica_and_loses_it_when_it_is_cold(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead(extra=1, budget=budget())
        first, second = await two_workers(harness)
        hot = next(iter(first.loaded))
        for each in harness.workers:
            each.rates = {hot: HOT}
        await harness.until(lambda: hot in first.loaded & second.loaded, "on both")
        for each in harness.workers:
            each.rates = {(layer, e): 100.0 for layer in range(LAYERS) for e in range(EXPERTS)} | {hot: 1.0}
        await harness.until(lambda: not first.loaded & second.loaded, "on one again")
        assert len(first.loaded | second.loaded) == LAYERS * EXPERTS

    run_scenario(store, scenario)


def test_no_more_moves_than_the_budget_has_bytes_for(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead(budget=budget(2.5 * EXPERT_BYTES))
        first, second = await two_workers(harness)  # loading for these joins has overdrawn it
        heat(harness, first)
        before = first.loaded.copy(), second.loaded.copy()
        await asyncio.sleep(4 * LOAD_S)
        assert (first.loaded, second.loaded) == before

    run_scenario(store, scenario)


def test_without_a_budget_nobody_is_asked(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead()
        first, _ = await two_workers(harness)
        heat(harness, first)
        epoch = leader.epoch
        await asyncio.sleep(4 * LOAD_S)
        assert leader.epoch == epoch

    run_scenario(store, scenario)


def test_a_load_that_one_worker_does_not_give_moves_nothing(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead(budget=budget())
        first, second = await two_workers(harness)
        heat(harness, first)
        second.rates, epoch = None, leader.epoch
        await asyncio.sleep(4 * LOAD_S)
        assert leader.epoch == epoch
        heat(harness, first)
        await harness.until(lambda: leader.epoch > epoch, "once all answer")

    run_scenario(store, scenario)


def test_deaths_are_noticed_while_a_worker_does_not_give_its_load(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead(budget=budget())
        first, *others = [await harness.join("expert", number) for number in range(4)]
        await harness.loaded(2, 2, 2, 2)
        first.holds, waits = {"Load"}, []
        for victim in others:
            for each in harness.workers:
                each.load_s = 0.3
            await harness.until(lambda: first.held > 0, "asked for its load")
            epoch, asked = leader.epoch, prepares(harness)
            await harness.kill(victim)
            await harness.until(lambda asked=asked: prepares(harness) > asked, "experts are loaded")  # type: ignore[misc]  # bound
            waits.append(first.held)
            await harness.until(lambda epoch=epoch: leader.epoch > epoch, "placed anew")  # type: ignore[misc]  # bound
        assert any(waits), "experts are loaded while the load is still asked for"

    run_scenario(store, scenario)


def test_a_new_leader_keeps_what_was_balanced(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        old = harness.lead("router-0", extra=1, budget=budget())
        first, second = await two_workers(harness)
        hot, before = next(iter(first.loaded)), old.epoch
        for each in harness.workers:
            each.rates = {hot: HOT}
        await harness.until(lambda: first.epoch == second.epoch > before, "both have the new table")
        assert hot in first.loaded & second.loaded
        asked = prepares(harness)
        await harness.end("router-0")
        new = harness.lead("router-1", extra=1, budget=budget())
        await harness.until(lambda: new.leading, "another leads")
        await asyncio.sleep(4 * LOAD_S)
        assert hot in first.loaded & second.loaded
        assert prepares(harness) == asked

    run_scenario(store, scenario)


def test_metrics_tell_how_even_the_loads_are(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead(budget=budget())
        first, _ = await two_workers(harness)
        assert math.isnan(leader.metrics.balancedness)
        heat(harness, first)
        await harness.until(lambda: leader.metrics.balancedness > 0.9, "balanced by the experts that moved")
        assert leader.metrics.tables >= 2, "one or two for the workers, and one for their load"
        assert leader.metrics.loaded > LAYERS * EXPERTS

    run_scenario(store, scenario)


def test_a_change_for_balance_makes_way_for_a_worker_that_dies(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead(budget=budget())
        first, second = await two_workers(harness)
        third = await harness.join("expert", 2)
        await harness.until(lambda: sorted(len(w.loaded) for w in harness.workers) == [2, 3, 3], "on three")
        asked = prepares(harness)
        for worker in (first, second, third):
            worker.load_s = 600
        heat(harness, max(harness.workers, key=lambda worker: len(worker.loaded)))
        await harness.until(lambda: prepares(harness) > asked, "asked to load for balance, which never ends")
        for worker in (first, second, third):
            worker.load_s = 0
        draining = min(harness.workers, key=lambda worker: len(worker.loaded))
        draining.draining = True
        await harness.membership.announce(draining.record())
        await harness.until(lambda: not draining.loaded, "drained, without waiting for the balance")

    run_scenario(store, scenario)
