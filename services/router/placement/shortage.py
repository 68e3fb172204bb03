"""Reports that experts exceed the capacity of the workers: a log line, gauges, a hint in Redis, and Events.

Nothing here is waited for by the placement or by a request.
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
SETTLED = (
    4  # ticks that a shortage stays the same before others are notified: workers leave and start one after another
)
STARTING = 120  # the same while there never was a table: pods are being started, which needs nobody's help


class ShortageReporter:
    """One per router. The leader notes what it plans; the other routers read the hint. `notify` must return at once."""

    def __init__(self, membership: Membership, notify: Callable[[CapacityShortage], None] | None = None) -> None:
        self._membership, self._notify = membership, notify
        self._noted: CapacityShortage | None = None  # by this router, which leads
        self._heard: CapacityShortage | None = None  # from the router that leads
        self._leads = self._hinted = False
        self._age, self._settled = 0, SETTLED  # ticks
        self.unplaced = 0  # experts that nobody living holds, as the leader knows; 0 elsewhere

    @property
    def known(self) -> CapacityShortage | None:
        return self._noted or self._heard

    @property
    def warning(self) -> str:
        """In words, empty when there is nothing to say."""
        return str(self.known or "")

    def note(self, shortage: CapacityShortage | None, unplaced: int, starting: bool = False) -> None:
        """What this router, which leads, has found; said once per change."""
        self._settled = STARTING if starting else SETTLED
        self._leads, self._heard, self.unplaced = True, None, unplaced
        if shortage == self._noted:
            return
        if shortage is not None:
            log.warning(
                "experts have no room" if shortage.workers or shortage.lost else "workers are left out",
                reason=shortage.reason,
                must_stay=dict(shortage.workers),
                lost=shortage.lost,
            )
        else:
            log.info("experts have room again, and nobody is left out")
        self._noted, self._age = shortage, 0

    def forget(self) -> None:
        """This router leads no more; its hint runs out, or the next leader writes another."""
        self._leads = self._hinted = False
        self._noted, self.unplaced = None, 0

    def show(self, registry: CollectorRegistry) -> None:
        """Adds both gauges; 0 on a router that knows nothing."""
        unplaced = Gauge(
            "caracal_experts_unplaced", "Experts that no living worker holds, known to the leader", registry=registry
        )
        unplaced.set_function(lambda: float(self.unplaced))
        refused = Gauge(
            "caracal_placement_blocked_drains",
            "Workers kept from leaving: their experts fit nowhere else",
            registry=registry,
        )
        refused.set_function(lambda: float(len(self.known.workers) if self.known else 0))

    async def run(self) -> None:
        """Keeps the hint and tells what has settled, for ever."""
        while True:
            try:
                await self._hint()
            except RedisUnavailable:  # said elsewhere
                self._heard = None
            self._tell_settled()
            await asyncio.sleep(TICK_S)

    async def _hint(self) -> None:
        if self._noted is not None:
            self._hinted = True
            await self._membership.write_shortage(self._noted)
        elif self._hinted:
            await self._membership.withdraw_shortage()
            self._hinted = False
        elif not self._leads:
            self._heard = await self._membership.shortage()

    def _tell_settled(self) -> None:
        if self._noted is None or self._notify is None:
            return
        self._age += 1
        if self._age == self._settled:
            self._notify(self._noted)
