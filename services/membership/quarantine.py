"""Workers that compute wrongly, in Redis: by boot id, so that a worker which starts again is not meant.

Whoever has convicted one writes it; routers leave it out, except where it has what no other worker has. A hint like
everything here: if it is lost, the worker is found out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.membership.checks import is_text
from services.membership.client import COUNTER, RedisClient, field_name
from services.membership.record import WorkerRecord

KEPT_S = 30 * 86400
MOST = 1024  # workers that are read


class Quarantine:
    """One process's access to it. Calls raise RedisUnavailable."""

    def __init__(self, client: RedisClient, cluster: str) -> None:
        self._client, self._cluster = client, cluster
        self._key, self._suspicion = f"{cluster}:quarantine", f"{cluster}:suspicion"

    async def add(self, boot_id: str, reason: str) -> None:
        """Writes why a worker is left out, and wakes who waits for changes. The first reason stands."""
        record = self._client.signed(field_name(self._key, boot_id), reason)
        changes, changed = f"{self._cluster}:changes", f"{self._cluster}:changed"

        def fill(pipe: Any) -> None:
            pipe.hsetnx(self._key, boot_id, record)
            pipe.expire(self._key, KEPT_S)
            pipe.incr(changes)
            pipe.publish(changed, "")

        await self._client.write(fill, {self._key: "hash", changes: COUNTER})

    async def mark(self, records: Sequence[WorkerRecord]) -> list[WorkerRecord]:
        """The records, of which those that are left out say why."""
        raw = await self._client.read(self._client.redis.hgetall(self._key))
        if not isinstance(raw, dict):
            self._client.verified("quarantine", self._key, raw)
            raw = {}
        reasons = {name.decode(errors="replace"): record for name, record in list(raw.items())[:MOST]}
        return [self._marked(one, reasons.get(one.boot_id)) for one in records]

    async def suspect(self, seconds: float) -> None:
        """Asks all attention workers to look closely at the expert workers' answers for so long."""
        record = self._client.signed(self._suspicion, "1")
        await self._client.write(lambda pipe: pipe.set(self._suspicion, record, px=int(1000 * seconds)))

    async def is_suspected(self) -> bool:
        """Whether that is asked for now."""
        record = await self._client.read(self._client.redis.get(self._suspicion))
        return self._client.verified("suspicion", self._suspicion, record) is not None

    def _marked(self, worker: WorkerRecord, record: object) -> WorkerRecord:
        value = self._client.verified("quarantine", field_name(self._key, worker.boot_id), record)
        text = (value or b"").decode(errors="replace")
        if text and not is_text(text):
            self._client.bad.note("quarantine", field_name(self._key, worker.boot_id), "it is no reason")
            text = ""
        return worker if worker.quarantined == text else replace(worker, quarantined=text)
