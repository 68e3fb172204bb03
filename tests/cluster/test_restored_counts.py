"""Worker counts that Redis has lost are written again, and what a user has asked for in the meantime stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.worker_processes import Store, redis_store

from services.membership.redis import Membership
from services.security.cluster_key import ClusterKey

pytestmark = pytest.mark.processes

KEPT = {"expert": 2, "attention": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({}, KEPT),
        ({"expert": 3}, KEPT | {"expert": 3}),
        ({"expert": 3, "attention": 4}, {"expert": 3, "attention": 4}),
    ],
)
def test_only_what_is_missing_is_written(store: Store, stored: dict[str, int], expected: dict[str, int]) -> None:
    async def scenario() -> dict[str, int]:
        membership = Membership(store.url, "caracal", ClusterKey("the key of a cluster"))
        try:
            for role, count in stored.items():
                await membership.set_desired(role, count)
            await membership.restore_desired(KEPT)
            return await membership.desired()
        finally:
            await membership.close()

    store.client.flushall()
    assert asyncio.run(scenario()) == expected


@pytest.mark.parametrize("forged", ["expert", "attention"])
def test_a_record_that_nobody_of_ours_signed_is_replaced(store: Store, forged: str) -> None:
    async def scenario() -> dict[str, int]:
        membership = Membership(store.url, "caracal", ClusterKey("the key of a cluster"))
        try:
            await membership.restore_desired(KEPT)
            return await membership.desired()
        finally:
            await membership.close()

    store.client.flushall()
    store.client.hset("caracal:desired", forged, "60")
    assert asyncio.run(scenario()) == KEPT
