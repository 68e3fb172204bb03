"""Which attention workers may serve: those that have read what the others have, by their leases and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from support.worker_processes import Store, redis_store

from services.attention_worker.loading import ReadWeights
from services.attention_worker.weights_agreement import WeightsAgreement
from services.membership.record import WorkerRecord
from services.membership.redis import Membership

pytestmark = pytest.mark.processes

TABLE_CLASS = "caracal-0123456789abcdef"
NAMES = [f"model.layers.{layer}.weight" for layer in range(8)]
GOOD = [7 * one for one in range(8)]
BAD = [*GOOD[:3], 1, *GOOD[4:]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as one:
        yield one


class One:
    """One attention worker's agreement; `refused` as its service has it."""

    def __init__(self, membership: Membership, number: int, checksums: list[int], own: str) -> None:
        self.refused = ""
        self.boot_id, self.numerics_class = f"boot-{number}", f"{TABLE_CLASS}-{own}"
        self.number, self._membership = number, membership
        weights = ReadWeights(NAMES, ["model-1.safetensors"] * 8, checksums)
        self.agreement = WeightsAgreement(
            membership, self.boot_id, self.numerics_class, TABLE_CLASS, weights, self._notify
        )

    def _notify(self, reason: str) -> None:
        self.refused = reason

    async def compare(self) -> str:
        await self.agreement.compare()
        return self.refused

    async def serve(self) -> None:
        record = WorkerRecord(
            worker_id=f"attention-{self.number}",
            role="attention",
            address="127.0.0.1:1",
            boot_id=self.boot_id,
            numerics_class=self.numerics_class,
            epoch=1,
        )
        await self._membership.announce(record)


def run(store: Store, body: Callable[[Membership], Awaitable[None]]) -> None:
    async def with_redis() -> None:
        store.client.flushall()
        membership = Membership(store.url)
        try:
            await body(membership)
        finally:
            await membership.close()

    asyncio.run(with_redis())


def test_the_first_one_serves_and_a_damaged_one_names_file_and_tensor(store: Store) -> None:
    async def body(membership: Membership) -> None:
        first, same = One(membership, 0, GOOD, "good"), One(membership, 1, GOOD, "good")
        assert "not been compared" in first.refused, "before it has looked it does not serve"
        assert await first.compare() == ""
        assert await same.compare() == ""
        damaged = One(membership, 2, BAD, "bad")
        refused = await damaged.compare()
        assert refused.startswith("model-1.safetensors: model.layers.3.weight: CRC-32 00000001, not 00000015")
        assert f"redis has them in the hash caracal:weights:{TABLE_CLASS}" in refused

    run(store, body)


def test_workers_that_serve_outrank_what_is_stored(store: Store) -> None:
    async def body(membership: Membership) -> None:
        damaged, good = One(membership, 0, BAD, "bad"), One(membership, 1, GOOD, "good")
        assert await damaged.compare() == ""
        assert "model.layers.3.weight" in await good.compare()
        await One(membership, 2, GOOD, "good").serve()
        assert await good.compare() == ""
        assert "not those of the workers that serve" in await damaged.compare()

    run(store, body)


def test_other_bits_from_the_same_weights_are_refused(store: Store) -> None:
    async def body(membership: Membership) -> None:
        assert await One(membership, 0, GOOD, "good").compare() == ""
        assert "computes other bits" in await One(membership, 1, GOOD, "other").compare()

    run(store, body)


def test_what_redis_has_is_checked(store: Store) -> None:
    async def body(membership: Membership) -> None:
        key = f"caracal:weights:{TABLE_CLASS}"
        store.client.hset(key, mapping={"class": b"\xff\x00", "attention": b"123", "samples": b"x" * 5})
        assert await One(membership, 0, GOOD, "good").compare() == ""
        store.client.delete(key)
        store.client.set(key, "no hash")
        assert await One(membership, 0, GOOD, "good").compare() == ""
        assert membership.bad.count == 4

    run(store, body)
