"""Reports that experts exceed the capacity of the workers: a log line, gauges, a hint in Redis, and Events.

Neither the placement nor a request waits for anything here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.membership.redis import Membership, RedisUnavailable
from services.membership.shortage import CapacityShortage

log = structlog.get_logger(__name__)

TICK_S = 0.5
# Ticks for which a shortage must stay unchanged before Events report it: workers leave and start one after another.
STABLE_TICKS = 4
STARTUP_TICKS = 120  # the same before the first table: pods that are still starting need no action


class ShortageReporter:
    """Knows the cluster's shortage: on the leader by `note`, on other routers from Redis. One per router.

    `notify` sends Events and must return at once.
    """

    def __init__(self, membership: Membership, notify: Callable[[CapacityShortage], None] | None = None) -> None:
        self._membership, self._notify = membership, notify
        self._noted: CapacityShortage | None = None  # by this router, which leads
        self._received: CapacityShortage | None = None  # from the router that leads
        self._leads = self._hinted = False
        self._age, self._notify_at = 0, STABLE_TICKS  # ticks
        self.unplaced = 0  # experts loaded on no live worker, known to the leader; 0 on other routers

    @property
    def known(self) -> CapacityShortage | None:
        return self._noted or self._received

    @property
    def warning(self) -> str:
        """The shortage in words; empty when there is none."""
        return str(self.known or "")

    def note(self, shortage: CapacityShortage | None, unplaced: int, starting: bool = False) -> None:
        """Takes what this router, which leads, has found; logs it once per change. `starting`: no table exists yet."""
        self._notify_at = STARTUP_TICKS if starting else STABLE_TICKS
        self._leads, self._received, self.unplaced = True, None, unplaced
        if shortage == self._noted:
            return
        if shortage is not None:
            log.warning(
                "experts exceed the workers' capacity" if shortage.workers or shortage.lost else "workers are left out",
                reason=shortage.reason,
                blocked_drains=dict(shortage.workers),
                lost=shortage.lost,
            )
        else:
            log.info("all experts fit again, and no worker is left out")
        self._noted, self._age = shortage, 0

    def forget(self) -> None:
        """Drops what was noted: this router leads no more. Its hint expires, or the next leader writes another."""
        self._leads = self._hinted = False
        self._noted, self.unplaced = None, 0

    def show(self, registry: CollectorRegistry) -> None:
        """Adds both gauges to the registry; they are 0 on a router that knows no shortage."""
        unplaced = Gauge(
            "caracal_experts_unplaced", "Experts loaded on no live worker, known to the leader", registry=registry
        )
        unplaced.set_function(lambda: float(self.unplaced))
        blocked = Gauge(
            "caracal_placement_blocked_drains",
            "Workers that cannot drain: their experts fit nowhere else",
            registry=registry,
        )
        blocked.set_function(lambda: float(len(self.known.workers) if self.known else 0))

    async def run(self) -> None:
        """Renews or reads the hint and notifies about stable shortages, until cancelled."""
        while True:
            try:
                await self._hint()
            except RedisUnavailable:  # logged by the leader's loop
                self._received = None
            self._notify_if_stable()
            await asyncio.sleep(TICK_S)

    async def _hint(self) -> None:
        if self._noted is not None:
            self._hinted = True
            await self._membership.write_shortage(self._noted)
        elif self._hinted:
            await self._membership.withdraw_shortage()
            self._hinted = False
        elif not self._leads:
            self._received = await self._membership.shortage()

    def _notify_if_stable(self) -> None:
        if self._noted is None or self._notify is None:
            return
        self._age += 1
        if self._age == self._notify_at:
            self._notify(self._noted)
