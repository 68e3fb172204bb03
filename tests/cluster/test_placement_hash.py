"""The placement hash in a real Redis: what is there only rises, whoever writes last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from caracal_proto.placement_pb2 import Table
from support.worker_processes import Store, redis_store

from services.membership.redis import Membership
from services.security.cluster_key import ClusterKey

pytestmark = pytest.mark.processes

KEY = "caracal:placement"
KEYS = [ClusterKey(), ClusterKey(text="0123456789abcdef" * 2)]
Scenario = Callable[[Membership, Membership], Awaitable[None]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def run(store: Store, key: ClusterKey, scenario: Scenario) -> None:
    """Runs a scenario with two processes' views of an empty Redis."""

    async def both() -> None:
        one, other = Membership(store.url, key=key), Membership(store.url, key=key)
        try:
            await scenario(one, other)
        finally:
            await one.close()
            await other.close()

    store.client.flushall()
    asyncio.run(both())


@pytest.mark.parametrize("key", KEYS, ids=["unsigned", "signed"])
def test_a_leader_that_leads_no_more_writes_over_no_newer_table(store: Store, key: ClusterKey) -> None:
    async def scenario(former: Membership, leader: Membership) -> None:
        assert await former.write_table(Table(epoch=7))
        assert await leader.write_table(Table(epoch=1000, numerics_class="c"))
        assert not await former.write_table(Table(epoch=8))
        assert await former.read_table() == Table(epoch=1000, numerics_class="c")
        assert await leader.table_epoch() == 1000
        assert await leader.write_table(Table(epoch=1000, numerics_class="d")), "the same epoch may be repaired"
        assert await former.write_table(Table(epoch=8), over=1000), "it was found to be of another cluster"
        assert await leader.table_epoch() == 8
        store.client.hdel(KEY, "table")
        assert await former.write_table(Table(epoch=3)), "an epoch alone is no table"

    run(store, key, scenario)


def test_of_many_that_write_at_once_the_highest_epoch_stays(store: Store) -> None:
    async def scenario(one: Membership, other: Membership) -> None:
        epochs = [1 + 37 * number % 60 for number in range(60)]
        writers = (one, other)
        for at in range(0, 60, 6):
            tables = [Table(epoch=epoch, numerics_class=str(epoch)) for epoch in epochs[at : at + 6]]
            await asyncio.gather(*(writers[n % 2].write_table(table) for n, table in enumerate(tables)))
            # Whoever has tried in vain tries again with the next pulse, as a leader does.
            await one.write_table(max(tables, key=lambda table: table.epoch))
            highest = max(epochs[: at + 6])
            table = await one.read_table()
            assert table is not None
            assert (table.epoch, table.numerics_class) == (highest, str(highest))
            assert await one.table_epoch() == highest

    run(store, ClusterKey(), scenario)


@pytest.mark.parametrize("key", KEYS, ids=["unsigned", "signed"])
def test_no_two_leaders_begin_the_same_term(store: Store, key: ClusterKey) -> None:
    async def scenario(one: Membership, other: Membership) -> None:
        assert sorted(await asyncio.gather(one.write_term(1000), other.write_term(1000))) == [False, True]
        assert not await one.write_term(1)
        assert (await other.pulse()).term == 1000
        assert await one.write_term(2000)
        assert await other.write_term(3, over=2000), "it was found to be of nobody"
        assert (await one.pulse()).term == 3

    run(store, key, scenario)


@pytest.mark.parametrize("key", KEYS, ids=["unsigned", "signed"])
def test_a_redis_is_bare_until_it_has_a_term_or_a_cluster_begins_there(store: Store, key: ClusterKey) -> None:
    async def scenario(one: Membership, other: Membership) -> None:
        first = await one.pulse("router-0", 2000)
        assert (first.leads, first.taken, first.bare, first.term) == (True, True, True, 0)
        again = await one.pulse("router-0", 2000)
        assert (again.leads, again.taken) == (True, False)
        await one.begin_cluster()
        begun = await other.pulse("router-1", 2000)
        assert (begun.leads, begun.taken, begun.bare, begun.term) == (False, False, False, 0)
        assert await one.write_term(1)
        await other.begin_cluster()
        assert (await one.pulse()).term == 1, "a term stays"
        store.client.flushall()
        assert (await one.pulse("router-0", 2000)).taken

    run(store, key, scenario)


@pytest.mark.parametrize("junk", [b"", b"many", b"-3", b"9" * 30])
def test_what_is_no_epoch_is_written_over(store: Store, junk: bytes) -> None:
    async def scenario(one: Membership, _: Membership) -> None:
        store.client.hset(KEY, mapping={"epoch": junk, "term": junk})
        assert (await one.pulse()).bare
        assert await one.write_table(Table(epoch=2))
        assert await one.write_term(1)
        assert (await one.table_epoch(), (await one.pulse()).term) == (2, 1)
        store.client.delete(KEY)
        store.client.set(KEY, "no hash")
        assert await one.write_term(1)
        assert (await one.pulse()).term == 1

    run(store, ClusterKey(), scenario)
