"""When a new expert worker counts as ready beside another numerics class, by what Redis says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

import pytest
from support.worker_processes import Store, redis_store

from services.expert_worker.placement_state import PlacementState
from services.expert_worker.readiness import LOOKS_S, NOT_KNOWN, Alone, Readiness
from services.membership.class_hint import ClassHint
from services.membership.record import WorkerRecord
from services.membership.redis import LEASE_MS, Membership

pytestmark = pytest.mark.processes


class State:
    """As much of a worker's state as readiness looks at."""

    numerics_class, epoch, draining, drained = "new", 1, False, False


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def run(store: Store, scenario: Callable[[Membership, Readiness], Awaitable[None]]) -> None:
    async def within() -> None:
        store.client.flushall()
        membership = Membership(store.url)
        try:
            await scenario(membership, Readiness(cast("PlacementState", State()), membership))
        finally:
            await membership.close()

    asyncio.run(within())


def record(numerics_class: str) -> WorkerRecord:
    return WorkerRecord(
        worker_id="expert-0", role="expert", address="127.0.0.1:1", boot_id="b", numerics_class=numerics_class
    )


async def lead(membership: Membership, times: int = 1) -> None:
    """A router takes the leader's lease, and renews it each second."""
    for _ in range(times):
        await membership.pulse("router-0", LEASE_MS)
        await asyncio.sleep(1 if times > 1 else 0)


def test_alone_or_among_its_own_class_it_is_ready_after_two_looks(store: Store) -> None:
    async def scenario(membership: Membership, readiness: Readiness) -> None:
        await membership.announce(record("new"))
        leading = asyncio.create_task(lead(membership, 10))
        began = time.monotonic()
        async with asyncio.timeout(8):
            await readiness.wait_for_leave()
        assert time.monotonic() - began >= LOOKS_S
        assert not readiness.reason()
        leading.cancel()

    run(store, scenario)


def test_while_nobody_leads_an_empty_redis_says_nothing(store: Store) -> None:
    async def scenario(membership: Membership, readiness: Readiness) -> None:
        waiting = asyncio.create_task(readiness.wait_for_leave())
        await asyncio.sleep(LOOKS_S + 1)
        assert not waiting.done()
        assert readiness.reason() == NOT_KNOWN
        waiting.cancel()

    run(store, scenario)


def test_a_redis_that_loses_everything_during_an_upgrade_lets_no_worker_go(store: Store) -> None:
    """As when the release's own Redis gets another image in the same upgrade: first it is empty, then a router leads,
    and then the old class's workers have renewed their leases."""

    async def scenario(membership: Membership, readiness: Readiness) -> None:
        await membership.announce(record("old"))
        await membership.generations.write((ClassHint("old"), ClassHint("new", hold="attention-0 needs them")))
        waiting = asyncio.create_task(readiness.wait_for_leave())
        await asyncio.sleep(0.8)
        assert readiness.reason() == "attention-0 needs them"
        store.client.flushall()
        await asyncio.sleep(1.5)
        leading = asyncio.create_task(lead(membership, 10))
        await asyncio.sleep(1)
        await membership.announce(record("old"))
        await asyncio.sleep(LOOKS_S)
        assert not waiting.done()
        assert readiness.reason() == NOT_KNOWN
        await membership.generations.write((ClassHint("old"), ClassHint("new", hold="attention-0 needs them")))
        await asyncio.sleep(0.8)
        assert readiness.reason() == "attention-0 needs them"
        waiting.cancel()
        leading.cancel()

    run(store, scenario)


def test_looks_count_from_the_first_one_of_the_same_leader() -> None:
    alone = Alone()
    assert not alone.seen("a", 10)
    assert not alone.seen("a", 10 + LOOKS_S / 2)
    assert not alone.seen("b", 10 + LOOKS_S)
    assert not alone.seen("", 10 + 2 * LOOKS_S), "another class was seen, or nobody leads"
    assert not alone.seen("b", 10 + 3 * LOOKS_S)
    assert alone.seen("b", 10 + 4 * LOOKS_S)


def test_beside_another_class_it_is_ready_when_the_leader_says_so(store: Store) -> None:
    async def scenario(membership: Membership, readiness: Readiness) -> None:
        await membership.announce(record("old"))
        waiting = asyncio.create_task(readiness.wait_for_leave())
        await asyncio.sleep(0.3)
        assert readiness.reason() == NOT_KNOWN
        await membership.generations.write((ClassHint("old"), ClassHint("new", hold="attention-0 needs them")))
        await asyncio.sleep(0.8)
        assert readiness.reason() == "attention-0 needs them"
        assert not waiting.done()
        await membership.generations.write((ClassHint("old"), ClassHint("new")))
        async with asyncio.timeout(5):
            await waiting
        await membership.generations.write((ClassHint("old"), ClassHint("new", hold="again")))
        assert not readiness.reason(), "once ready it stays so"

    run(store, scenario)
