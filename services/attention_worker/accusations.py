"""What an attention worker has to say about expert workers that compute wrongly, and what routers ask it to look at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from services.membership.redis import Membership, RedisUnavailable
from services.router.dispatch.table import Key

log = structlog.get_logger(__name__)

LOOK_S = 1.0  # between two looks at whether all calls are to be computed again


class Accusations:
    """One worker's. Any thread calls `convict`; it is written to Redis by `run`, as soon as Redis can be reached."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._loop = asyncio.get_running_loop()
        self._convicted: dict[str, str] = {}  # reasons that are not written yet, by boot id

    def convict(self, key: Key, reason: str) -> None:
        """Takes a worker that is to be left out."""
        _, boot_id, _ = key
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._convicted.setdefault, boot_id, reason)

    async def run(self, look_closely: Callable[[float], None]) -> None:
        """Runs until cancelled. `look_closely` has all calls computed again for so many seconds."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                if await self.is_suspected():
                    look_closely(2 * LOOK_S)
            await asyncio.sleep(LOOK_S)

    async def is_suspected(self) -> bool:
        """Writes what is new; returns whether all calls are to be computed again for now. Raises RedisUnavailable."""
        for boot_id, reason in list(self._convicted.items()):
            await self._membership.quarantine.add(boot_id, reason)
            del self._convicted[boot_id]
            log.warning("an expert worker is in quarantine", boot_id=boot_id, reason=reason)
        return await self._membership.quarantine.is_suspected()
