"""Placement leaders over a real Redis and real gRPC; the workers are fakes without weights."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from support.fake_experts import FakeWorker
from support.worker_processes import Store

from services.membership.redis import Membership
from services.membership.shortage import CapacityShortage
from services.router.placement.balance_budget import BalanceBudget
from services.router.placement.leader import PlacementLeader
from services.router.placement.plan import Shape
from services.router.placement.shortage_reporter import ShortageReporter

LAYERS, EXPERTS = 2, 4
LOAD_S = 0.3
Calls = list[tuple[str, str, int]]  # (worker id, kind of call, epoch)


class LeaderHarness:
    """One test's leaders and workers. The leases of workers that were not killed are renewed."""

    def __init__(self, store: Store) -> None:
        store.client.flushall()
        self.store = store
        self.calls: Calls = []
        self.workers: list[FakeWorker] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.leaders: list[PlacementLeader] = []
        self.shortages: dict[str, ShortageReporter] = {}
        self.membership = Membership(store.url)

    def lead(
        self,
        name: str = "router-0",
        replicas: int = 1,
        notify: Callable[[CapacityShortage], None] | None = None,
        extra: int = 0,
        budget: BalanceBudget | None = None,
    ) -> PlacementLeader:
        """With a `budget`, the load is read every LOAD_S."""
        shape = Shape(layers=LAYERS, experts=EXPERTS, replicas=replicas, extra=extra)
        membership = Membership(self.store.url)
        self.shortages[name] = ShortageReporter(membership, notify)
        leader = PlacementLeader(membership, name, shape, self.shortages[name], budget, LOAD_S)
        self.leaders.append(leader)
        self.tasks[name] = asyncio.create_task(leader.run())
        return leader

    async def join(self, role: str, number: int, **more: Any) -> FakeWorker:
        worker = FakeWorker(role, number, self.calls, **more)
        await self.add(worker)
        return worker

    async def add(self, worker: FakeWorker) -> None:
        await worker.join(self.membership)
        self.workers.append(worker)
        self.tasks[worker.boot_id] = asyncio.create_task(self.membership.advertise(worker.record))

    async def kill(self, worker: FakeWorker) -> None:
        await self.end(worker.boot_id)
        await worker.stop()
        self.workers.remove(worker)

    async def end(self, name: str) -> None:
        task = self.tasks.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def loaded(self, *counts: int) -> None:
        """Waits until the expert workers that are alive have loaded so many experts, in the order they joined."""
        await self.until(
            lambda: [len(w.loaded) for w in self.workers if w.role == "expert"] == list(counts), str(counts)
        )

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not reached: {what}; {self.calls}"
            for task in self.tasks.values():
                assert not task.done(), task
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        for name in list(self.tasks):
            await self.end(name)
        for worker in self.workers:
            await worker.stop()
        await self.membership.close()


@contextlib.asynccontextmanager
async def leader_harness(store: Store) -> AsyncIterator[LeaderHarness]:
    harness = LeaderHarness(store)
    await harness.membership.begin_cluster()
    try:
        yield harness
    finally:
        await harness.close()


def run_scenario(store: Store, scenario: Callable[[LeaderHarness], Awaitable[None]]) -> None:
    async def run() -> None:
        async with leader_harness(store) as harness:
            await scenario(harness)

    asyncio.run(run())
