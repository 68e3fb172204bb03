"""Leases of workers that are not there, and of workers that pretend to be others: never chosen, and nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Certificates
from support.fake_attention import FakeAttention, answers_with
from support.fake_experts import FakeWorker
from support.gateway_assets import write_assets
from support.gateway_harness import Harness
from support.leader_harness import LeaderHarness, run_scenario
from support.worker_processes import Store, redis_store

from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.router.introductions import Introductions
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.directory import RouterCount, list_attention_workers
from services.security.channels import PLAIN, Dialer
from services.security.identity import ROUTER

pytestmark = pytest.mark.processes

GHOSTS = 2000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(scope="module")
def assets_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_assets(tmp_path_factory.mktemp("model") / "tiny-cat")


def lease(fake: FakeAttention, **more: Any) -> WorkerRecord:
    view = fake.record()
    fields: dict[str, Any] = {"worker_id": view.worker_id, "address": view.address, "boot_id": view.boot_id, "epoch": 1}
    return WorkerRecord(role="attention", numerics_class=view.numerics_class, **(fields | more))


def write(store: Store, *records: WorkerRecord) -> None:
    """Leases that do not expire, as an outsider leaves them."""
    pipe = store.client.pipeline()
    for record in records:
        pipe.set(f"caracal:worker:{record.role}:{record.worker_id}", record.lease_json())
        pipe.sadd(f"caracal:workers:{record.role}", record.worker_id)
    pipe.execute()


class Listing:
    """A pool of attention workers over a real Redis, and what it lists."""

    def __init__(self, store: Store) -> None:
        self.membership = Membership(store.url)
        self.introductions = Introductions(bad=self.membership.bad)
        self.pool = AttentionWorkerPool(self._list, max_model_len=64, refresh_s=0.05)

    async def _list(self) -> Any:
        return await list_attention_workers(self.membership, self.introductions)

    async def names(self) -> list[tuple[str, str]]:
        await self.pool.refresh()
        return sorted((worker.worker_id, worker.address) for worker in self.pool.workers)

    async def close(self) -> None:
        await self.pool.close()
        await self.introductions.close()
        await self.membership.close()


async def started(worker_id: str) -> FakeAttention:
    fake = FakeAttention(answers_with([1]), worker_id=worker_id)
    await fake.start()
    return fake


def test_two_thousand_ghosts_are_never_listed_and_hold_nobody_up(store: Store) -> None:
    async def body() -> None:
        store.client.flushall()
        fake = await started("attention-0")
        ghosts = [lease(fake, worker_id=f"ghost-{n}", boot_id=f"g{n}", address="127.0.0.1:1") for n in range(GHOSTS)]
        write(store, *ghosts, lease(fake))
        listing = Listing(store)
        try:
            began = time.monotonic()
            while await listing.names() != [("attention-0", f"127.0.0.1:{fake.port}")]:
                assert time.monotonic() < began + 20, listing.pool.workers
            assert len(listing.pool._channels) == 1, "no channel to a ghost"
            took = []
            for _ in range(10):
                began = time.monotonic()
                assert [name for name, _ in await listing.names()] == ["attention-0"]
                took.append(time.monotonic() - began)
            assert min(took) < 0.5
        finally:
            await listing.close()
            await fake.stop()

    asyncio.run(body())


@pytest.mark.parametrize("stolen", ["address of a ghost", "address of another worker", "its own address"])
def test_a_second_lease_with_a_living_workers_boot_id_changes_nothing(store: Store, stolen: str) -> None:
    """Under another name, which sorts before the worker's own."""

    async def body() -> None:
        store.client.flushall()
        fakes = [await started(f"attention-{number}") for number in range(2)]
        ports = {"address of a ghost": 1, "address of another worker": fakes[1].port, "its own address": fakes[0].port}
        write(store, *map(lease, fakes))
        write(store, lease(fakes[0], worker_id="a-thief", address=f"127.0.0.1:{ports[stolen]}"))
        listing = Listing(store)
        try:
            for _ in range(5):
                assert [name for name, _ in await listing.names()] == ["attention-0", "attention-1"]
        finally:
            await listing.close()
            for fake in fakes:
                await fake.stop()

    asyncio.run(body())


@pytest.mark.parametrize("more", [{"address": "127.0.0.1:1"}, {"boot_id": "another"}, {"address": "[::1]:1"}])
def test_a_lease_that_is_written_over_does_not_move_its_worker(store: Store, more: dict[str, str]) -> None:
    async def body() -> None:
        store.client.flushall()
        fake = await started("attention-0")
        write(store, lease(fake))
        listing = Listing(store)
        try:
            expected = [("attention-0", f"127.0.0.1:{fake.port}")]
            assert await listing.names() == expected
            write(store, lease(fake, **more))
            for _ in range(5):
                assert await listing.names() == expected
                await asyncio.sleep(0.05)
        finally:
            await listing.close()
            await fake.stop()

    asyncio.run(body())


def test_a_worker_that_restarts_is_listed_as_it_is_now(store: Store) -> None:
    async def body() -> None:
        store.client.flushall()
        fake = await started("attention-0")
        write(store, lease(fake))
        listing = Listing(store)
        again = await started("attention-0")
        try:
            assert [address for _, address in await listing.names()] == [f"127.0.0.1:{fake.port}"]
            write(store, lease(again))
            assert [address for _, address in await listing.names()] == [f"127.0.0.1:{again.port}"]
        finally:
            await listing.close()
            await fake.stop()
            await again.stop()

    asyncio.run(body())


def test_a_ghost_is_noted_once(store: Store) -> None:
    async def body() -> None:
        store.client.flushall()
        fake = await started("attention-0")
        write(store, lease(fake, worker_id="ghost", address="127.0.0.1:1"))
        listing = Listing(store)
        try:
            async with asyncio.timeout(20):
                while not listing.membership.bad.count:
                    await listing.names()
                    await asyncio.sleep(0.1)
            assert "cannot be reached" in listing.membership.bad.last
        finally:
            await listing.close()
            await fake.stop()

    asyncio.run(body())


def test_a_leader_places_experts_on_no_ghost_and_loses_none(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("attention", 0)
        first = await harness.join("expert", 0)
        await harness.loaded(8)
        thief = WorkerRecord(**(first.record().to_dict() | {"worker_id": "a-thief", "address": "127.0.0.1:1"}))
        ghosts = [
            WorkerRecord(
                worker_id=f"ghost-{n}", role="expert", address="127.0.0.1:1", boot_id=f"g{n}", numerics_class="c"
            )
            for n in range(GHOSTS)
        ]
        write(store, thief, *ghosts)
        await harness.membership.announce(thief)  # so that the leader looks at once
        await harness.join("expert", 1)
        await harness.loaded(4, 4)
        table = await harness.membership.read_table()
        assert table is not None
        assert [worker.worker_id for worker in table.workers] == ["expert-0", "expert-1"]
        await harness.kill(harness.workers[1])
        await harness.loaded(8)

    run_scenario(store, scenario)


def test_a_router_that_starts_among_ghosts_leads_with_what_workers_have(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        worker = FakeWorker("expert", 0, harness.calls)
        worker.loaded = {(layer, expert) for layer in range(2) for expert in range(4)}
        worker.epoch = 41_000
        ghosts = [
            WorkerRecord(worker_id=f"ghost-{n}", role="expert", address="127.0.0.1:1", boot_id=f"g{n}", epoch=2**60)
            for n in range(200)
        ]
        write(store, *ghosts)
        await harness.add(worker)
        harness.lead()
        await harness.until(lambda: worker.epoch > 41_000, "it leads")
        assert worker.epoch == 42_000
        assert not [call for call in harness.calls if call[1] == "prepare"], "nothing is loaded twice"

    run_scenario(store, scenario)


def test_a_router_that_leads_before_it_knows_a_worker_leads_with_what_workers_have(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead()
        await harness.until(lambda: leader.leading, "it leads")
        worker = FakeWorker("expert", 0, harness.calls)
        worker.loaded = {(layer, expert) for layer in range(2) for expert in range(4)}
        worker.epoch = 41_000
        await harness.add(worker)
        await harness.until(lambda: worker.epoch > 41_000, "its worker has a table")
        assert worker.epoch == 42_000
        assert not [call for call in harness.calls if call[1] == "prepare"], "nothing is loaded twice"

    run_scenario(store, scenario)


class Routers:
    """What one router counts, over a real Redis."""

    def __init__(self, store: Store, again_s: float = 0.1, dialer: Dialer = PLAIN) -> None:
        self.membership = Membership(store.url)
        self.introductions = Introductions(dialer, self.membership.bad, again_s)

    async def count(self) -> int:
        return await RouterCount(self.membership, self.introductions, "router-0").read()

    async def becomes(self, wanted: int) -> None:
        async with asyncio.timeout(20):
            while await self.count() != wanted:  # noqa: ASYNC110  the count is asked for, nobody tells of it
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.introductions.close()
        await self.membership.close()


def router_lease(worker_id: str, boot_id: str, port: int) -> WorkerRecord:
    return WorkerRecord(role="router", worker_id=worker_id, boot_id=boot_id, address=f"127.0.0.1:{port}")


def test_routers_that_are_not_there_take_no_share_of_a_quota(store: Store, assets_path: Path) -> None:
    """A lease counts while the process at its address says that it is this router, and not for longer."""

    async def body(other: Harness) -> None:
        store.client.flushall()
        port = other.servers.grpc_port
        write(store, router_lease("router-0", "own", 1), router_lease("router-1", "boot-1", port))
        write(store, *(router_lease(f"ghost-{n}", f"g{n}", 1) for n in range(500)))
        write(store, router_lease("thief", "boot-2", port), router_lease("a-thief", "boot-1", port))
        routers = Routers(store)
        try:
            await routers.becomes(2)
            began = time.monotonic()
            for _ in range(5):
                assert await routers.count() == 2
            assert time.monotonic() - began < 2.5
        finally:
            await routers.close()

    with Harness(assets_path, FakeAttention(answers_with([1])), run=("router-1", "boot-1")) as other:
        asyncio.run(body(other))


def test_routers_know_each_other_with_tls_between_processes(store: Store, assets_path: Path, tmp_path: Path) -> None:
    """The port that they are asked at is for clients, and has none."""
    dialer = Dialer(tls=Certificates(tmp_path / "tls").tls(ROUTER))

    async def body(other: Harness) -> None:
        store.client.flushall()
        write(store, router_lease("router-1", "boot-1", other.servers.grpc_port))
        routers = Routers(store, dialer=dialer)
        try:
            await routers.becomes(2)
        finally:
            await routers.close()

    with Harness(assets_path, FakeAttention(answers_with([1])), run=("router-1", "boot-1")) as other:
        asyncio.run(body(other))


def test_a_router_that_is_gone_is_not_counted_whoever_renews_its_lease(store: Store, assets_path: Path) -> None:
    async def body(other: Harness) -> None:
        store.client.flushall()
        write(store, router_lease("router-1", "boot-1", other.servers.grpc_port))
        routers = Routers(store)
        try:
            await routers.becomes(2)
            await asyncio.to_thread(other.stop, 0.1)
            await routers.becomes(1)
        finally:
            await routers.close()

    with Harness(assets_path, FakeAttention(answers_with([1])), run=("router-1", "boot-1")) as other:
        asyncio.run(body(other))
