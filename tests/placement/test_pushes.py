"""Tables are pushed beside everything else, and calls to a worker that is gone end as failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from grpc import ChannelConnectivity
from support.fake_experts import FakeWorker

from services.membership.record import WorkerRecord
from services.router.placement.change import PublishedTable
from services.router.placement.pushes import Pushes
from services.router.placement.worker_client import CallFailed, Workers
from services.router.placement.worker_registry import PROBES, WorkerRegistry

pytestmark = pytest.mark.processes

TABLE = PublishedTable(Table(epoch=1, numerics_class="c"))
Calls = list[tuple[str, str, int]]


@asynccontextmanager
async def fakes(count: int) -> AsyncIterator[tuple[Workers, list[FakeWorker], Calls]]:
    calls: Calls = []
    found = [FakeWorker("expert", number, calls) for number in range(count)]
    workers = Workers()
    try:
        for each in found:
            await each.start()
        yield workers, found, calls
    finally:
        await workers.close()
        for each in found:
            await each.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is in another task
            await asyncio.sleep(0.01)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


def test_a_worker_that_hangs_holds_nobody_up_and_gets_the_next_table() -> None:
    async def scenario() -> None:
        async with fakes(2) as (workers, (hung, other), calls):
            hung.holds, pushes = {"Commit"}, Pushes(workers)
            pushes.begin(TABLE, [hung.record(), other.record()])
            await until(lambda: hung.held == 1 and other.epoch == 1)
            pushes.begin(TABLE, [hung.record(), other.record()])
            assert hung.held == 1
            pushes.forget()
            await until(lambda: hung.held == 0)
            hung.holds = set()
            pushes.begin(TABLE, [hung.record(), other.record()])
            await until(lambda: hung.epoch == 1)
            await until(lambda: len(calls) == 3)

    run(scenario)


def test_a_worker_that_lacks_what_it_is_given_loads_it_again() -> None:
    """As after the table of a leader that led no more, which has unloaded it meanwhile."""

    async def scenario() -> None:
        async with fakes(1) as (workers, (worker,), calls):
            name, record = worker.worker_id, worker.record()
            here = Endpoint(worker_id=name, address=record.address, boot_id=record.boot_id)
            given = Table(epoch=3, numerics_class="c", workers=[here], layers=[layer_of([[0], [0]])])
            pushes, table = Pushes(workers), PublishedTable(given)
            async with asyncio.timeout(20):
                while worker.epoch != 3:
                    pushes.begin(table, [record])
                    await asyncio.sleep(0.01)
            assert worker.loaded == {(0, 0), (0, 1)}
            assert calls == [(name, "prepare", 3), (name, "commit", 3)]

    run(scenario)


def test_a_call_ends_as_a_failure_when_its_worker_is_forgotten() -> None:
    async def scenario() -> None:
        async with fakes(1) as (workers, (worker,), _):
            worker.holds = {"Describe"}
            call = asyncio.create_task(workers.loaded(worker.record(), 4))
            await until(lambda: worker.held == 1)
            await workers.keep_only(())
            with pytest.raises(CallFailed, match="expert-0 is gone"):
                await call

    run(scenario)


def test_a_call_that_is_cancelled_is_cancelled() -> None:
    async def scenario() -> None:
        async with fakes(1) as (workers, (worker,), _):
            worker.holds = {"Describe"}
            call = asyncio.create_task(workers.loaded(worker.record(), 4))
            await until(lambda: worker.held == 1)
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()

    run(scenario)


def test_workers_without_a_lease_are_probed_together() -> None:
    async def scenario() -> None:
        asked, all_asked = 0, asyncio.Event()

        async def probe(_: WorkerRecord) -> bool:
            nonlocal asked
            asked += 1
            if asked == PROBES:
                all_asked.set()
            await all_asked.wait()
            return False

        registry = WorkerRegistry(lambda _: ChannelConnectivity.READY, probe)
        ids = [f"expert-{number}" for number in range(PROBES)]
        registry.see([WorkerRecord(worker_id=each, role="expert", address="a:1", boot_id=each) for each in ids])
        registry.see([])
        async with asyncio.timeout(20):
            assert await registry.alive(0.0) == []

    run(scenario)
