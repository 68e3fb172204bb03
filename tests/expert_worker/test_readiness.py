"""When a new expert worker counts as ready beside another numerics class, by what Redis says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

import pytest
from support.worker_processes import Store, redis_store

from services.expert_worker.placement_state import PlacementState
from services.expert_worker.readiness import Readiness
from services.membership.class_hint import ClassHint
from services.membership.record import WorkerRecord
from services.membership.redis import Membership

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


def test_alone_or_among_its_own_class_it_is_ready_at_once(store: Store) -> None:
    async def scenario(membership: Membership, readiness: Readiness) -> None:
        await membership.announce(record("new"))
        assert readiness.hold
        async with asyncio.timeout(2):
            await readiness.wait_for_leave()
        assert not readiness.reason()

    run(store, scenario)


def test_beside_another_class_it_is_ready_when_the_leader_says_so(store: Store) -> None:
    async def scenario(membership: Membership, readiness: Readiness) -> None:
        await membership.announce(record("old"))
        waiting = asyncio.create_task(readiness.wait_for_leave())
        await asyncio.sleep(0.3)
        assert readiness.reason() == "does not know yet whether another numerics class serves"
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
