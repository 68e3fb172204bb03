"""Leaders over a real Redis and real gRPC; the workers are fakes that hold lists."""

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
from services.router.placement.leader import PlacementLeader
from services.router.placement.shortage import ShortageReporter

LAYERS, EXPERTS = 2, 4
Said = list[tuple[str, str, int]]


class Stage:
    """One test's leaders and workers. Leases are renewed for those that were not killed."""

    def __init__(self, store: Store) -> None:
        store.client.flushall()
        self.store, self.said, self.workers, self.tasks = store, Said(), [], {}
        self.shortages: dict[str, ShortageReporter] = {}
        self.membership = Membership(store.url)

    def lead(
        self, name: str = "router-0", replicas: int = 1, tell: Callable[[CapacityShortage], None] | None = None
    ) -> PlacementLeader:
        membership = Membership(self.store.url)
        self.shortages[name] = ShortageReporter(membership, tell)
        leader = PlacementLeader(membership, name, LAYERS, EXPERTS, replicas, self.shortages[name])
        self.tasks[name] = asyncio.create_task(leader.run())
        return leader

    async def join(self, role: str, number: int, **more: Any) -> FakeWorker:
        worker = FakeWorker(role, number, self.said, **more)
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
        """Waits until the living expert workers hold so many, in the order they joined."""
        await self.until(
            lambda: [len(w.loaded) for w in self.workers if w.role == "expert"] == list(counts), str(counts)
        )

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"never {what}; {self.said}"
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
async def stage(store: Store) -> AsyncIterator[Stage]:
    made = Stage(store)
    try:
        yield made
    finally:
        await made.close()


def play(store: Store, scene: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        async with stage(store) as made:
            await scene(made)

    asyncio.run(run())
