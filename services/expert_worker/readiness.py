"""Why an expert worker is not ready, in words: for GET /ready, and for the log of a drain that timed out."""

from __future__ import annotations

import asyncio
import contextlib

from services.expert_worker.placement_state import PlacementState
from services.membership.redis import Membership, RedisUnavailable
from services.membership.shortage import CapacityShortage, waiting_experts

POLL_S = 0.5


class Readiness:
    """Combines the worker's current state with the leader's capacity shortage as last read by `follow`."""

    def __init__(self, state: PlacementState, membership: Membership) -> None:
        self._state, self._membership = state, membership
        self._shortage: CapacityShortage | None = None

    def reason(self) -> str:
        """Why the worker is not ready; empty when it is."""
        if self._state.drained:
            return "draining: nothing is loaded here any more"
        if self._state.draining:
            return f"draining: {self.still_here()}"
        return "" if self._state.epoch else "no placement yet"

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
