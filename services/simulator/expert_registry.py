"""Which expert workers the leader takes for alive: its real registry, on simulated leases, connections and probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpc import ChannelConnectivity

from services.membership.record import WorkerRecord
from services.router.placement.leader import READ_S
from services.router.placement.worker_client import PROBE_S
from services.router.placement.worker_registry import WorkerRegistry


class ExpertRegistry:
    """`there` gives the records of pods that are ready. A worker that is gone keeps its lease for `lease_s`."""

    def __init__(
        self, there: Callable[[], list[WorkerRecord]], lease_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._there, self._lease_s, self._loop = there, lease_s, loop
        self._quiet: dict[str, tuple[WorkerRecord, float]] = {}  # by boot id: who renews its lease no more, since when
        self._cut: set[str] = set()  # boot ids: their connections have ended
        self._stale, self._read_at = True, 0.0
        self._registry = WorkerRegistry(self._state, self._answers)

    @property
    def has_suspects(self) -> bool:
        """Whether a worker is about to be taken for dead."""
        return self._registry.has_suspects

    def changed(self) -> None:
        """A lease is another one: they are read again at once."""
        self._stale = True

    def fell_silent(self, record: WorkerRecord) -> None:
        """Nothing comes from a worker any more."""
        self._quiet[record.boot_id] = record, self._loop.time()

    def goes_on(self, boot_id: str) -> None:
        """A worker that had stopped renews its lease again."""
        self._quiet.pop(boot_id, None)
        self.changed()

    def disconnected(self, boot_id: str) -> None:
        """A worker's connections have ended."""
        self._cut.add(boot_id)

    async def alive(self) -> list[WorkerRecord]:
        """Who is alive, by leases that are read when one has changed, and now and then."""
        if self._stale or self._loop.time() >= self._read_at + READ_S:
            self._read()
        return await self._registry.alive(self._loop.time())

    def living(self) -> list[WorkerRecord]:
        """Who was when it was asked last; before that, who has a lease."""
        if self._stale:
            self._read()
        return self._registry.living()

    def _read(self) -> None:
        now = self._loop.time()
        leased = {record.worker_id: record for record, since in self._quiet.values() if now < since + self._lease_s}
        lapsed = {boot_id for boot_id, (_, since) in self._quiet.items() if now >= since + self._lease_s}
        leased |= {record.worker_id: record for record in self._there() if record.boot_id not in lapsed}
        self._registry.see(list(leased.values()))
        self._stale, self._read_at = False, now

    def _state(self, record: WorkerRecord) -> ChannelConnectivity:
        return ChannelConnectivity.TRANSIENT_FAILURE if record.boot_id in self._cut else ChannelConnectivity.READY

    async def _answers(self, record: WorkerRecord) -> bool:
        """Whoever has no lease here answers no probe either."""
        del record
        await asyncio.sleep(PROBE_S)
        return False
