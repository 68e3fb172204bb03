"""Why an expert worker is not ready, in words: for probes, for GET /ready, and for the log of a drain that timed out.

While another numerics class serves, a new worker is ready when the leader says so: Kubernetes replaces no further
worker before. Once ready it stays so, whatever the leader says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from services.expert_worker.placement_state import PlacementState
from services.membership.redis import Membership, RedisUnavailable
from services.membership.shortage import CapacityShortage, waiting_experts

POLL_S = 0.5
UNKNOWN_S = 30.0  # without a word of the leader's about this worker's class
NOT_KNOWN = "does not know yet whether another numerics class serves"
LOOKS_S = 2.0  # between the first and the last look at the leases, which are renewed each second


class Readiness:
    """Combines the worker's current state with the leader's capacity shortage as last read by `follow`."""

    def __init__(self, state: PlacementState, membership: Membership) -> None:
        self._state, self._membership = state, membership
        self._shortage: CapacityShortage | None = None
        self.hold = NOT_KNOWN

    def reason(self) -> str:
        """Why the worker is not ready; empty when it is."""
        if self._state.drained:
            return "draining: nothing is loaded here any more"
        if self._state.draining:
            return f"draining: {self.still_here()}"
        return self.hold or ("" if self._state.epoch else "no placement yet")

    def still_here(self) -> str:
        """Which experts keep the worker from being drained, with the leader's reason if it names this worker."""
        shortage = self._shortage
        named = shortage is not None and self._state.worker_id in shortage.workers
        return waiting_experts(len(self._state.experts.loaded), shortage.reason if shortage and named else "")

    async def follow(self) -> None:
        """Polls the leader's capacity shortage until cancelled; while Redis is unreachable the last one is kept."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                self._shortage = await self._membership.shortage()
            await asyncio.sleep(POLL_S)

    async def wait_for_leave(self) -> None:
        """Ends when nothing speaks against this worker's being ready any more; until then `hold` says what does."""
        silent_from = time.monotonic()
        alone = Alone()
        while self.hold:
            try:
                hints = await self._membership.generations.read()
                own = next((one for one in hints if one.numerics_class == self._state.numerics_class), None)
                if own is not None:
                    silent_from = time.monotonic()
                    self.hold = own.hold
                elif alone.seen(await self._leader_without_others() if not hints else "", time.monotonic()):
                    self.hold = ""
                else:
                    self.hold = NOT_KNOWN
            except RedisUnavailable as error:
                alone = Alone()
                self.hold = f"Redis does not say whether another numerics class serves: {error}"
            if time.monotonic() > silent_from + UNKNOWN_S:
                self.hold = ""
            await asyncio.sleep(POLL_S if self.hold else 0)

    async def _leader_without_others(self) -> str:
        """Who leads, if Redis has no expert worker of another class; else empty."""
        workers = await self._membership.workers("expert")
        if any(one.numerics_class != self._state.numerics_class for one in workers):
            return ""
        return await self._membership.leader() or ""


class Alone:
    """Whether a worker's class is the only one, by looks at Redis. A Redis that has lost everything shows no other
    class either, until every worker has renewed its lease and a router leads again: so one look is no evidence."""

    def __init__(self) -> None:
        self._leader, self._since = "", 0.0

    def seen(self, leader: str, now: float) -> bool:
        """Takes in a look: who leads while no other class is there, empty where one is, or nobody leads."""
        if leader != self._leader:
            self._leader, self._since = leader, now
        return bool(leader) and now >= self._since + LOOKS_S
