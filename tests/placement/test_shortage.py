"""A leader without room over a real Redis: what it says, where, and when it stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs
from support.leader_harness import Stage, play
from support.worker_processes import Store, redis_store

from services.membership.shortage import CapacityShortage
from services.router.placement.shortage import ShortageReporter

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


def test_a_worker_that_must_not_go_is_named_everywhere_until_there_is_room(store: Store) -> None:
    async def scene(s: Stage) -> None:
        pushed: list[CapacityShortage] = []
        s.lead("router-0", tell=pushed.append)
        first, second = await s.join("expert", 0, capacity=5), await s.join("expert", 1, capacity=5)
        await s.loaded(4, 4)
        s.lead("router-1")
        second.draining = True
        await s.membership.announce(second.record())
        await s.until(lambda: store.client.exists("caracal:shortage") == 1, "a hint")
        await s.loaded(5, 3)
        await s.until(lambda: pushed[-1:] == [CapacityShortage(LACKING, {"expert-1": 3})], "others are pushed")
        hint = json.loads(store.client.get("caracal:shortage"))
        assert hint == {"reason": LACKING, "workers": {"expert-1": 3}, "lost": 0}
        assert 0 < store.client.pttl("caracal:shortage") <= 3000
        leading, other = s.shortages["router-0"], s.shortages["router-1"]
        await s.until(lambda: other.warning == leading.warning != "", "the other router knows")
        assert gauges(leading) == {"caracal_experts_unplaced": 0.0, "caracal_placement_blocked_drains": 1.0}
        await s.join("expert", 2, capacity=5)
        await s.until(lambda: (len(first.loaded), len(second.loaded)) == (4, 0), "released")
        await s.until(lambda: not store.client.exists("caracal:shortage"), "the hint is gone", seconds=2)
        await s.until(lambda: not other.warning, "the other router knows")
        assert gauges(leading) == {"caracal_experts_unplaced": 0.0, "caracal_placement_blocked_drains": 0.0}
        assert pushed == [CapacityShortage(LACKING, {"expert-1": 3})]

    with capture_logs() as logs:
        play(store, scene)
    said = [entry for entry in logs if entry["event"] == "experts have no room" and entry["must_stay"]]
    assert [(entry["reason"], entry["must_stay"]) for entry in said] == [(LACKING, {"expert-1": 3})]


def test_experts_without_a_place_are_counted_from_the_start(store: Store) -> None:
    async def scene(s: Stage) -> None:
        pushed: list[CapacityShortage] = []
        s.lead(tell=pushed.append)
        shortages, nobody = s.shortages["router-0"], "8 experts are loaded on no worker, requests wait for them: "
        await s.until(lambda: shortages.unplaced == 8, "counted")
        assert shortages.warning == f"{nobody}no expert worker: experts need 8 places"
        await s.join("expert", 0, capacity=5)
        await s.until(lambda: shortages.warning == nobody + LACKING, "counted anew")
        await asyncio.sleep(3)
        assert not pushed, "a cluster that is starting needs nobody's help"
        assert shortages.unplaced == 8
        await s.join("expert", 1, capacity=5)
        await s.until(lambda: shortages.unplaced == 0, "all placed")
        assert shortages.known is None

    play(store, scene)


def test_experts_that_died_with_their_worker_are_counted_until_others_hold_them(store: Store) -> None:
    async def scene(s: Stage) -> None:
        pushed: list[CapacityShortage] = []
        s.lead(tell=pushed.append)
        shortages = s.shortages["router-0"]
        for number in range(2):
            await s.join("expert", number, capacity=5)
        await s.loaded(4, 4)
        await s.kill(s.workers[0])
        await s.until(lambda: shortages.unplaced == 4, "counted")
        await s.until(lambda: bool(pushed), "others are pushed")
        assert pushed == [CapacityShortage(LACKING, lost=4)]
        await s.join("expert", 2, capacity=5)
        await s.until(lambda: shortages.unplaced == 0, "all placed")

    play(store, scene)


def test_why_a_join_failed_is_part_of_it(store: Store) -> None:
    async def scene(s: Stage) -> None:
        pushed: list[CapacityShortage] = []
        s.lead(tell=pushed.append)
        worker = await s.join("expert", 0, refuses="model-1.safetensors: a.weight: holds NaN")
        why = "expert-0 could not take its experts: "
        await s.until(lambda: why in s.shortages["router-0"].warning, "said")
        assert "model-1.safetensors: a.weight: holds NaN" in s.shortages["router-0"].warning
        await s.until(lambda: bool(pushed), "others are pushed, though nothing was placed yet")
        worker.refuses = ""
        await s.until(lambda: not s.shortages["router-0"].warning, "forgotten", seconds=30)

    play(store, scene)


def test_who_is_of_another_class_is_named(store: Store) -> None:
    async def scene(s: Stage) -> None:
        pushed: list[CapacityShortage] = []
        s.lead(tell=pushed.append)
        await s.join("expert", 0, numerics_class="c")
        await s.join("attention", 0, numerics_class="c")
        await s.loaded(8)
        stranger = await s.join("attention", 1, numerics_class="d")
        await s.join("expert", 1, numerics_class="e")
        known = "attention-1, expert-1 are left out, of another numerics class than the table: "
        await s.until(lambda: s.shortages["router-0"].warning.startswith(known), "named")
        assert "CARACAL_DISPATCH_DTYPE" in s.shortages["router-0"].warning
        await s.kill(stranger)
        await s.until(lambda: s.shortages["router-0"].warning.startswith("expert-1 is left out"), "one is left")

    play(store, scene)


def test_another_leader_says_it_when_the_first_is_gone(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead("router-0")
        await s.until(lambda: bool(s.shortages["router-0"].warning), "said")
        second = s.lead("router-1")
        await s.end("router-0")
        await s.until(lambda: second.leading and s.shortages["router-1"].unplaced == 8, "said by the second")
        await asyncio.sleep(3.5)
        assert store.client.exists("caracal:shortage"), "renewed beyond the first one's time"

    play(store, scene)


@pytest.mark.parametrize("poison", [b"\xff", b'{"reason": 1}', b"[" * 100_000])
def test_a_poisoned_hint_is_not_believed(store: Store, poison: bytes) -> None:
    async def scene(s: Stage) -> None:
        store.client.set("caracal:shortage", poison)
        assert await s.membership.shortage() is None

    play(store, scene)
