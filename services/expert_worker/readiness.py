"""Why an expert worker is not ready, in words: for GET /ready, and for the log of one that leaves unreleased."""

from __future__ import annotations

import asyncio
import contextlib

from services.expert_worker.placement import Holding
from services.membership.redis import Membership, RedisUnavailable
from services.membership.shortage import Refusal, no_place_yet

LOOK_S = 0.5


class Readiness:
    """Reads what the holding says now; of the leader it knows what `follow` last read."""

    def __init__(self, holding: Holding, membership: Membership) -> None:
        self._holding, self._membership = holding, membership
        self._refusal: Refusal | None = None

    def reason(self) -> str:
        """Empty when the worker is ready."""
        if self._holding.released:
            return "draining: nothing is held here any more"
        if self._holding.draining:
            return f"draining: {self.still_here()}"
        return "" if self._holding.epoch else "no placement yet"

    def still_here(self) -> str:
        """What a worker that may not go yet says, with the leader's reason if it gave one for this worker."""
        refusal = self._refusal
        named = refusal is not None and self._holding.worker_id in refusal.workers
        return no_place_yet(len(self._holding.experts.held), refusal.reason if refusal and named else "")

    async def follow(self) -> None:
        """Looks for the leader's refusal, for ever; while Redis is away the last one holds."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                self._refusal = await self._membership.refusal()
            await asyncio.sleep(LOOK_S)
