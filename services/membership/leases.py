"""The leases of workers in Redis: written by each for itself, read by role.

The index of a role is a set of names that anybody may add to: it only says where to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.membership.checks import is_text
from services.membership.client import CALL_S, RedisClient, RedisUnavailable, bounded
from services.membership.record import WorkerRecord

FEW = 16  # records read without a pause
MOST = 8192  # names of an index that are looked at
FORGOTTEN_S = 10.0  # after its lease has expired, a worker leaves the index; one that comes back is in it at once


@dataclass(frozen=True, slots=True)
class _Read:
    """A worker's lease as it was stored when it was read last, which is often the same the next time."""

    stored: bytes | None = None
    counted: bytes | None = None
    record: WorkerRecord | None = None  # None for a bad one


class Leases:
    """One process's view of the leases. Calls raise RedisUnavailable."""

    def __init__(self, client: RedisClient, cluster: str) -> None:
        self._client, self._cluster = client, cluster
        self._read: dict[tuple[str, bool], dict[str, _Read]] = {}  # by (role, with counts), by worker id
        self._missing: dict[str, dict[str, float]] = {}  # by role and worker id: since when it has had no lease

    def index(self, role: str) -> str:
        """The key of the set of a role's names."""
        return f"{self._cluster}:workers:{role}"

    def put(self, pipe: Any, record: WorkerRecord, lease_ms: int) -> None:
        """Adds the commands that write a lease."""
        for key, text in (
            (self._key(record.role, record.worker_id), record.lease_json()),
            (self._counts_key(record.role, record.worker_id), record.counts_json()),
        ):
            pipe.set(key, self._client.signed(key, text), px=lease_ms)
        pipe.sadd(self.index(record.role), record.worker_id)

    def remove(self, pipe: Any, record: WorkerRecord) -> None:
        """Adds the commands that withdraw a lease."""
        pipe.delete(self._key(record.role, record.worker_id), self._counts_key(record.role, record.worker_id))
        pipe.srem(self.index(record.role), record.worker_id)

    async def read(self, role: str, counts: bool) -> list[WorkerRecord]:
        """A role's live records, sorted by worker id; with what is counted if `counts`."""
        names = await self._names(role)
        if not names:
            return []
        before = self._read.get((role, counts), {})
        texts = await self._texts(role, names, counts)
        await self._forget(role, [name for name, (text, _) in zip(names, texts, strict=True) if text is None])
        now: dict[str, _Read] = {}
        self._read[role, counts] = now
        found = []
        for number, (name, (text, counted)) in enumerate(zip(names, texts, strict=True)):
            if number % FEW == FEW - 1:
                await asyncio.sleep(0)  # hundreds of records are not to hold the event loop
            last = before.get(name) or _Read()
            if text is None:
                continue
            if (text, counted) != (last.stored, last.counted):
                last = _Read(text, counted, self._checked(role, name, text, counted, last))
            now[name] = last
            if last.record is not None:
                found.append(last.record)
        return found

    async def named(self, role: str, worker_ids: Sequence[str]) -> dict[str, WorkerRecord]:
        """The live records of these workers, by id."""
        names = [name for name in worker_ids if is_text(name)]
        found = {}
        for name, (text, counted) in zip(names, await self._texts(role, names, False), strict=True):
            if (record := self._checked(role, name, text, counted, _Read())) is not None:
                found[name] = record
        return found

    def unleased(self, role: str) -> frozenset[str]:
        """Workers whose lease has expired, as of the last `read` of that role; not those that withdrew theirs."""
        return frozenset(self._missing.get(role, ()))

    async def _names(self, role: str) -> list[str]:
        """The names in the index, sorted: MOST of them at random if there are more, and those that had a lease."""
        index = self.index(role)
        members = await self._client.read(self._client.redis.srandmember(index, MOST))
        if not isinstance(members, list):
            self._client.verified("index", index, members)
            members = []
        names = set[str]()
        if len(members) >= MOST:
            for counts in (False, True):
                names |= {name for name, one in self._read.get((role, counts), {}).items() if one.record is not None}
        for member in members:
            name = member.decode(errors="backslashreplace") if isinstance(member, bytes) else repr(member)
            if name.encode() == member and name and is_text(name):
                names.add(name)
            else:
                self._client.bad.note("index", index, f"{name[:40]!r} is no name of a worker")
        return sorted(names)

    async def _texts(self, role: str, names: Sequence[str], counts: bool) -> list[tuple[Any, Any]]:
        """The stored records of these workers, each with what is counted if `counts`."""
        if not names:
            return []
        keys = [self._key(role, name) for name in names]
        counts_keys = [self._counts_key(role, name) for name in names] if counts else []
        texts = await bounded(self._client.redis.mget(keys + counts_keys), 2 * CALL_S)
        counted = texts[len(keys) :] if counts else [None] * len(keys)
        return list(zip(texts[: len(keys)], counted, strict=True))

    def _checked(self, role: str, name: str, stored: Any, counted: Any, last: _Read) -> WorkerRecord | None:
        """The record as it is stored now; None when there is none, or a bad one."""
        key = self._key(role, name)
        try:
            text = self._client.verified("worker", key, stored)
            if text is None:
                return None
            before = last.record if stored == last.stored else None
            record = before or WorkerRecord.from_json(text)
            counts = self._client.verified("worker", self._counts_key(role, name), counted)
            if counts is not None:
                record = record.with_counts(counts)
            if (record.worker_id, record.role) != (name, role):
                raise ValueError(f"it is of {record.role} {record.worker_id!r}")
        except (ValueError, RecursionError) as error:
            self._client.bad.note("worker", key, str(error))
            return None
        return record

    async def _forget(self, role: str, missing: Sequence[str]) -> None:
        """Takes workers out of the index that have had no lease for long."""
        now = time.monotonic()
        before = self._missing.get(role, {})
        self._missing[role] = since = {name: before.get(name, now) for name in missing}
        if gone := [name for name, at in since.items() if now - at > FORGOTTEN_S]:
            with contextlib.suppress(RedisUnavailable):  # what refuses writes can be read all the same
                await bounded(self._client.redis.srem(self.index(role), *gone), 2 * CALL_S)

    def _key(self, role: str, worker_id: str) -> str:
        return f"{self._cluster}:worker:{role}:{worker_id}"

    def _counts_key(self, role: str, worker_id: str) -> str:
        return f"{self._cluster}:counts:{role}:{worker_id}"
