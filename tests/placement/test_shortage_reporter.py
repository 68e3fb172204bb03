"""A leader whose workers lack capacity, over a real Redis: what it reports, where, and until when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs
from support.leader_harness import LeaderHarness, run_scenario
from support.worker_processes import Store, redis_store

from services.membership.shortage import CapacityShortage
from services.router.placement.shortage_reporter import ShortageReporter

pytestmark = pytest.mark.processes

LACKING = (
    "experts need 8 places, the workers that stay have 5: "
    "bring at least 1 more expert worker of 5, or raise their capacity"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def gauges(shortages: ShortageReporter) -> dict[str, float]:
    registry = CollectorRegistry()
    shortages.show(registry)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.split() for line in lines)}


def test_a_worker_that_may_not_drain_is_named_everywhere_until_capacity_suffices(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        notified: list[CapacityShortage] = []
        harness.lead("router-0", notify=notified.append)
        first, second = await harness.join("expert", 0, capacity=5), await harness.join("expert", 1, capacity=5)
        await harness.loaded(4, 4)
        harness.lead("router-1")
        second.draining = True
        await harness.membership.announce(second.record())
        await harness.until(lambda: store.client.exists("caracal:shortage") == 1, "the shortage is in Redis")
        await harness.loaded(5, 3)
        await harness.until(
            lambda: notified[-1:] == [CapacityShortage(LACKING, {"expert-1": 3})], "the callback was called"
        )
        stored = json.loads(store.client.get("caracal:shortage"))
        assert stored == {"reason": LACKING, "workers": {"expert-1": 3}, "lost": 0, "wrong": {}}
        assert 0 < store.client.pttl("caracal:shortage") <= 3000
        leading, other = harness.shortages["router-0"], harness.shortages["router-1"]
        await harness.until(lambda: other.warning == leading.warning != "", "the other router knows")
        assert gauges(leading) == {"caracal_experts_unplaced": 0.0, "caracal_placement_blocked_drains": 1.0}
        await harness.join("expert", 2, capacity=5)
        await harness.until(lambda: (len(first.loaded), len(second.loaded)) == (4, 0), "drained")
        await harness.until(lambda: not store.client.exists("caracal:shortage"), "the shortage left Redis", seconds=2)
        await harness.until(lambda: not other.warning, "the other router knows")
        assert gauges(leading) == {"caracal_experts_unplaced": 0.0, "caracal_placement_blocked_drains": 0.0}
        assert notified == [CapacityShortage(LACKING, {"expert-1": 3})]

    with capture_logs() as logs:
        run_scenario(store, scenario)
    entries = [
        entry for entry in logs if entry["event"] == "experts exceed the workers' capacity" and entry["blocked_drains"]
    ]
    assert [(entry["reason"], entry["blocked_drains"]) for entry in entries] == [(LACKING, {"expert-1": 3})]


def test_unplaced_experts_are_counted_from_the_start(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        notified: list[CapacityShortage] = []
        harness.lead(notify=notified.append)
        shortages, unplaced = (
            harness.shortages["router-0"],
            "8 experts are loaded on no worker, requests wait for them: ",
        )
        await harness.until(lambda: shortages.unplaced == 8, "counted")
        assert shortages.warning == f"{unplaced}no expert worker: experts need 8 places"
        await harness.join("expert", 0, capacity=5)
        await harness.until(lambda: shortages.warning == unplaced + LACKING, "counted again")
        await asyncio.sleep(3)
        assert not notified, "a cluster that is starting notifies nobody"
        assert shortages.unplaced == 8
        await harness.join("expert", 1, capacity=5)
        await harness.until(lambda: shortages.unplaced == 0, "all placed")
        assert shortages.known is None

    run_scenario(store, scenario)


def test_experts_lost_with_their_worker_are_counted_until_others_load_them(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        notified: list[CapacityShortage] = []
        harness.lead(notify=notified.append)
        shortages = harness.shortages["router-0"]
        for number in range(2):
            await harness.join("expert", number, capacity=5)
        await harness.loaded(4, 4)
        await harness.kill(harness.workers[0])
        await harness.until(lambda: shortages.unplaced == 4, "counted")
        await harness.until(lambda: bool(notified), "the callback was called")
        assert notified == [CapacityShortage(LACKING, lost=4)]
        await harness.join("expert", 2, capacity=5)
        await harness.until(lambda: shortages.unplaced == 0, "all placed")

    run_scenario(store, scenario)


def test_the_reason_of_a_failed_join_is_part_of_the_warning(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        notified: list[CapacityShortage] = []
        harness.lead(notify=notified.append)
        worker = await harness.join("expert", 0, rejects="model-1.safetensors: a.weight: holds NaN")
        why = "expert-0 could not take its experts: "
        await harness.until(lambda: why in harness.shortages["router-0"].warning, "in the warning")
        assert "model-1.safetensors: a.weight: holds NaN" in harness.shortages["router-0"].warning
        await harness.until(lambda: bool(notified), "the callback was called before anything was placed")
        worker.rejects = ""
        await harness.until(lambda: not harness.shortages["router-0"].warning, "the warning is gone", seconds=30)

    run_scenario(store, scenario)


def test_workers_of_another_numerics_class_are_named(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        notified: list[CapacityShortage] = []
        harness.lead(notify=notified.append)
        await harness.join("expert", 0, numerics_class="c")
        await harness.join("attention", 0, numerics_class="c")
        await harness.loaded(8)
        other_class = await harness.join("attention", 1, numerics_class="d")
        await harness.join("expert", 1, numerics_class="e")
        known = "attention-1, expert-1 are left out, of another numerics class than the table: "
        await harness.until(lambda: harness.shortages["router-0"].warning.startswith(known), "named")
        assert "CARACAL_DISPATCH_DTYPE" in harness.shortages["router-0"].warning
        await harness.kill(other_class)
        await harness.until(
            lambda: harness.shortages["router-0"].warning.startswith("expert-1 is left out"), "one is left"
        )

    run_scenario(store, scenario)


def test_the_next_leader_reports_the_shortage(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead("router-0")
        await harness.until(lambda: bool(harness.shortages["router-0"].warning), "in the warning")
        second = harness.lead("router-1")
        await harness.end("router-0")
        await harness.until(
            lambda: second.leading and harness.shortages["router-1"].unplaced == 8, "reported by the second"
        )
        await asyncio.sleep(3.5)
        assert store.client.exists("caracal:shortage"), "the second leader renews it"

    run_scenario(store, scenario)


@pytest.mark.parametrize("bad", [b"\xff", b'{"reason": 1}', b"[" * 100_000])
def test_a_malformed_shortage_in_redis_is_ignored(store: Store, bad: bytes) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        store.client.set("caracal:shortage", bad)
        assert await harness.membership.shortage() is None

    run_scenario(store, scenario)
