"""Whatever lies in Redis as a hint of cached pages: a bad one counts as none, and an old one does not come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from support.worker_processes import Store, redis_store

from services.membership.redis import Membership
from services.prefixes.page_filter import PageFilter
from services.prefixes.page_hint import PageHint
from services.security.cluster_key import NO_KEY, ClusterKey

pytestmark = pytest.mark.processes

KEY = ClusterKey("the key of this cluster")
KEYS = [NO_KEY, KEY]
HINT = PageHint("boot", 64, 5, PageFilter.over([bytes(32)]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(autouse=True)
def empty(store: Store) -> None:
    store.client.flushall()


def run(store: Store, key: ClusterKey, scenario: Callable[[Membership], Awaitable[None]]) -> None:
    async def body() -> None:
        membership = Membership(store.url, "caracal", key)
        try:
            await scenario(membership)
        finally:
            await membership.close()

    asyncio.run(body())


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"boot 64 1", bytes(1 << 20), b"boot 64 1\n" + bytes(7)])
@pytest.mark.parametrize("key", KEYS, ids=["no key", "key"])
def test_a_bad_hint_of_cached_pages_counts_as_none(store: Store, key: ClusterKey, record: bytes) -> None:
    async def scenario(membership: Membership) -> None:
        name = "caracal:pages:attention-0"
        await membership.pages.write("attention-1", HINT)
        store.client.set(name, membership._client.signed(name, record))
        for _ in range(3):
            assert await membership.pages.read(["attention-0", "attention-1", "gone", "\x00"]) == {"attention-1": HINT}
        assert membership.bad.count == 1
        store.client.lpush("caracal:pages:a-list", "x")
        assert await membership.pages.read(["a-list"]) == {}

    run(store, key, scenario)


def test_a_hint_without_a_signature_or_of_another_worker_counts_as_none(store: Store) -> None:
    async def scenario(membership: Membership) -> None:
        await membership.pages.write("attention-1", HINT)
        store.client.copy("caracal:pages:attention-1", "caracal:pages:attention-0")
        store.client.set("caracal:pages:attention-2", HINT.to_bytes())
        assert list(await membership.pages.read([f"attention-{n}" for n in range(3)])) == ["attention-1"]
        assert store.client.pttl("caracal:pages:attention-1") > 0

    run(store, KEY, scenario)


def test_an_older_hint_of_the_same_run_does_not_come_back(store: Store) -> None:
    async def scenario(membership: Membership) -> None:
        async def read() -> PageHint:
            return (await membership.pages.read(["a"]))["a"]

        await membership.pages.write("a", HINT)
        assert await read() == HINT
        await membership.pages.write("a", PageHint("boot", 64, 4, PageFilter.over([])))
        assert await read() == HINT
        restarted = PageHint("later", 64, 1, PageFilter.over([]))
        await membership.pages.write("a", restarted)
        assert await read() == restarted

    run(store, KEY, scenario)
