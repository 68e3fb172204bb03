"""Workers that compute wrongly, in a real Redis: who reads a lease sees it, until the worker starts again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.worker_processes import Store, redis_store

from services.attention_worker.accusations import Accusations
from services.cli.status_rows import rows
from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.router.placement.capacity import left_out
from services.router.requests.directory import views_of
from services.security.cluster_key import ClusterKey

pytestmark = pytest.mark.processes

KEY = ClusterKey("a secret of at least sixteen bytes", None)
EXPERT = WorkerRecord(
    worker_id="expert-0", role="expert", address="127.0.0.1:1", boot_id="b", epoch=3, loaded=4, numerics_class="c"
)
REASON = "it gave other bits than its replicas"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


@pytest.fixture(params=[False, True], ids=["unsigned", "signed"])
def keyed(store: Store, request: pytest.FixtureRequest) -> ClusterKey:
    store.client.flushall()
    return KEY if request.param else ClusterKey("", None)


def test_a_worker_in_quarantine_is_seen_by_all_and_returns_when_it_starts_again(
    store: Store, keyed: ClusterKey
) -> None:
    async def scenario() -> None:
        membership = Membership(store.url, key=keyed)
        await membership.announce(EXPERT)
        before = await membership.pulse()
        await membership.quarantine.add("b", REASON)
        await membership.quarantine.add("b", "a later reason")
        assert (await membership.pulse()).changes > before.changes, "nobody looks for it sooner"
        (found,) = await membership.workers("expert")
        assert found == replace(EXPERT, quarantined=REASON)
        assert (found.state, found.leaves) == ("quarantined", True)
        (row,) = rows((await Overview.read(membership)).workers)
        assert row[:2] == ("expert-0", "quarantined")
        assert left_out([found], "c") == f"expert-0 is quarantined: {REASON}"
        await membership.announce(replace(EXPERT, boot_id="b2"))
        (again,) = await membership.workers("expert")
        assert (again.state, again.leaves) == ("serving", False)
        await membership.close()

    asyncio.run(scenario())


def test_a_lease_says_nothing_about_it_and_bad_records_count_as_none(store: Store, tmp_path: Path) -> None:
    async def scenario() -> None:
        store.client.flushall()
        membership = Membership(store.url, key=KEY)
        await membership.announce(replace(EXPERT, quarantined="by itself"))
        (found,) = await membership.workers("expert")
        assert not found.quarantined
        store.client.hset("caracal:quarantine", "b", "not signed")
        (found,) = await membership.workers("expert")
        assert not found.quarantined
        assert membership.bad.count == 1
        store.client.delete("caracal:quarantine")
        store.client.set("caracal:quarantine", "no hash")
        (found,) = await membership.workers("expert")
        assert not found.quarantined
        await membership.quarantine.add("b", REASON)
        (found,) = await membership.workers("expert")
        assert found.quarantined == REASON, "what nobody of ours has written is written over"
        await membership.close()

    asyncio.run(scenario())


def test_an_attention_worker_says_whom_it_has_convicted_and_looks_closely_when_asked(store: Store) -> None:
    async def scenario() -> None:
        store.client.flushall()
        membership, closely = Membership(store.url), list[float]()
        accusations = Accusations(membership)
        await asyncio.to_thread(accusations.convict, ("expert-0", "b", "127.0.0.1:1"), REASON)
        running = asyncio.create_task(accusations.run(closely.append))
        async with asyncio.timeout(10):
            while not (await membership.quarantine.mark([EXPERT]))[0].quarantined:  # noqa: ASYNC110 - in Redis
                await asyncio.sleep(0.02)
        assert not closely
        await membership.quarantine.suspect(20)
        async with asyncio.timeout(10):
            while not closely:  # noqa: ASYNC110 - another task's
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await membership.close()

    asyncio.run(scenario())


def test_an_attention_worker_in_quarantine_serves_on_while_no_other_one_does() -> None:
    wrong = replace(EXPERT, role="attention", worker_id="attention-0", quarantined=REASON)
    other = replace(wrong, worker_id="attention-1", boot_id="b1", quarantined="")
    assert [(one.wrong, one.serving) for one in views_of([wrong, other], ())] == [(True, False), (False, True)]
    for useless in (replace(other, numerics_class="d"), replace(other, draining=True), replace(other, epoch=0)):
        assert views_of([wrong, useless], ())[0].serving


def test_a_suspicion_lasts_for_as_long_as_it_says(store: Store, keyed: ClusterKey) -> None:
    async def scenario() -> None:
        membership = Membership(store.url, key=keyed)
        assert not await membership.quarantine.is_suspected()
        await membership.quarantine.suspect(0.3)
        assert await membership.quarantine.is_suspected()
        async with asyncio.timeout(10):
            while await membership.quarantine.is_suspected():  # noqa: ASYNC110 - it lapses in Redis
                await asyncio.sleep(0.02)
        await membership.close()

    asyncio.run(scenario())
