"""Which pages attention workers say they have cached, in Redis: one record for each worker, written by itself.

A hint: whoever believes a wrong one lets a prompt be computed that another worker has cached, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.membership.checks import is_text
from services.membership.client import CALL_S, RedisClient, bounded
from services.prefixes.page_hint import PageHint

HINT_MS = 30_000


class PageHints:
    """One process's view of the hints. Calls raise RedisUnavailable."""

    def __init__(self, client: RedisClient, cluster: str) -> None:
        self._client, self._cluster = client, cluster
        self._read: dict[str, tuple[object, PageHint | None]] = {}  # as it was stored last, by worker id

    async def write(self, worker_id: str, hint: PageHint) -> None:
        """Writes what a worker has, for HINT_MS."""
        key = self._key(worker_id)
        record = self._client.signed(key, hint.to_bytes())
        await self._client.write(lambda pipe: pipe.set(key, record, px=HINT_MS))

    async def read(self, worker_ids: Sequence[str]) -> dict[str, PageHint]:
        """The hints of those of these workers that have given one, by id. A bad record counts as none."""
        names = [name for name in worker_ids if is_text(name)]
        if not names:
            return {}
        stored = await bounded(self._client.redis.mget([self._key(name) for name in names]), 2 * CALL_S)
        before, self._read = self._read, {}
        for name, record in zip(names, stored, strict=True):
            last = before.get(name, (None, None))
            self._read[name] = last if record == last[0] else (record, self._newer(name, record, last[1]))
        return {name: hint for name, (_, hint) in self._read.items() if hint is not None}

    def _newer(self, name: str, record: object, last: PageHint | None) -> PageHint | None:
        """What a record says, or what the same run has said later."""
        key = self._key(name)
        data = self._client.verified("pages", key, record)
        if data is None:
            return None
        try:
            hint = PageHint.from_bytes(data)
        except ValueError as error:
            self._client.bad.note("pages", key, str(error))
            return None
        old = last is not None and last.boot_id == hint.boot_id and last.version > hint.version
        return last if old else hint

    def _key(self, worker_id: str) -> str:
        return f"{self._cluster}:pages:{worker_id}"
