"""Which pages attention workers say they have cached, in Redis: one record for each worker, written by itself.

A hint: whoever believes a wrong one lets a prompt be computed that another worker has cached, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.membership.checks import is_text
from services.membership.client import CALL_S, RedisClient, bounded
from services.prefixes.page_filter import MOST_BYTES, PageFilter

HINT_MS = 30_000
MAX_RECORD_BYTES = MOST_BYTES + 1024
MAX_DIGITS = 18  # of a number


@dataclass(frozen=True, slots=True)
class PageHint:
    """What one run of a worker has cached. `version` ascends with every change."""

    boot_id: str
    page_size: int  # tokens
    version: int
    pages: PageFilter

    @classmethod
    def from_bytes(cls, data: bytes) -> PageHint:
        """Raises ValueError when it is none."""
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"longer than {MAX_RECORD_BYTES} bytes")
        head, _, bits = data.partition(b"\n")
        boot_id, *numbers = head.decode().split(" ")
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) <= MAX_DIGITS for n in numbers):
            raise ValueError("it does not begin with a boot id, a page size and a version")
        page_size, version = map(int, numbers)
        if not (boot_id and is_text(boot_id) and 0 < page_size < 1 << 20):
            raise ValueError("its boot id is not printable, or its page size is out of range")
        return cls(boot_id, page_size, version, PageFilter.read(bits))

    def to_bytes(self) -> bytes:
        return f"{self.boot_id} {self.page_size} {self.version}\n".encode() + self.pages.bits


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
