"""Why an expert worker is not ready, in words: for GET /ready, and for the log of one that leaves unreleased."""

from __future__ import annotations

import asyncio
import contextlib

from services.expert_worker.placement import PlacementState
from services.membership.redis import Membership, RedisUnavailable
from services.membership.shortage import CapacityShortage, waiting_experts

LOOK_S = 0.5


class Readiness:
    """Reads what the state says now; of the leader it knows what `follow` last read."""

    def __init__(self, state: PlacementState, membership: Membership) -> None:
        self._state, self._membership = state, membership
        self._shortage: CapacityShortage | None = None

    def reason(self) -> str:
        """Empty when the worker is ready."""
        if self._state.drained:
            return "draining: nothing is loaded here any more"
        if self._state.draining:
            return f"draining: {self.still_here()}"
        return "" if self._state.epoch else "no placement yet"

    def still_here(self) -> str:
        """What a worker that may not go yet says, with the leader's reason if it gave one for this worker."""
        shortage = self._shortage
        named = shortage is not None and self._state.worker_id in shortage.workers
        return waiting_experts(len(self._state.experts.loaded), shortage.reason if shortage and named else "")

    async def follow(self) -> None:
        """Looks for the leader's shortage, for ever; while Redis is away the last one holds."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                self._shortage = await self._membership.shortage()
            await asyncio.sleep(LOOK_S)
