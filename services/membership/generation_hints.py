"""What the leader says of numerics classes while there are several: a hint in Redis, oldest class first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from services.membership.class_hint import ClassHint, parse
from services.membership.client import CALL_S, RedisClient, bounded

HINT_MS = 3000


class GenerationHints:
    """One process's access to the hint. Calls raise RedisUnavailable."""

    def __init__(self, client: RedisClient, cluster: str) -> None:
        self._client, self._key = client, f"{cluster}:generations"

    async def write(self, hints: Sequence[ClassHint]) -> None:
        """Writes them for HINT_MS."""
        record = self._client.signed(self._key, json.dumps([asdict(one) for one in hints]))
        await self._client.write(lambda pipe: pipe.set(self._key, record, px=HINT_MS))

    async def withdraw(self) -> None:
        await bounded(self._client.redis.delete(self._key), 2 * CALL_S)

    async def read(self) -> tuple[ClassHint, ...]:
        """None while there is one class, and where the hint is malformed."""
        data = self._client.verified(
            "generations", self._key, await self._client.read(self._client.redis.get(self._key))
        )
        if not data:
            return ()
        try:
            return parse(data)
        except (ValueError, RecursionError) as error:
            self._client.bad.note("generations", self._key, str(error))
            return ()
