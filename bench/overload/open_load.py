"""Requests at a rate, whatever becomes of them, at a few microseconds each: what a generator burns of shared cores, the
cluster does not have. Plain protocols instead of streams, and requests that are sent in ticks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import cast
from urllib.parse import urlsplit

TICK_S = 0.002
LEAD_S = 20.0  # no more requests are begun than this much time's worth is open


class _Connection(asyncio.Protocol):
    """One connection with at most one request on its way."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._data = b""
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def ask(self, request: bytes) -> None:
        self.began = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[:end].lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        if length and len(data) >= end + 4 + int(length):
            self._data = b""
            self._load.answered(self, int(data[9:12]), b"connection: close" in head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self)


class OpenLoad:
    """`rate` requests a second. `statuses`: 0 = no answer; `seconds`: of rejections and of answers."""

    def __init__(self, url: str, source: str, request: bytes, rate: float) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._source = parts.hostname or "", parts.port or 0, source
        self._request, self._rate = request, rate
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._opening = 0
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.refused_seconds: list[float] = []

    def answered(self, connection: _Connection, status: int, closes: bool) -> None:
        self._busy.discard(connection)
        self.statuses[str(status)] += 1
        (self.seconds if status == 200 else self.refused_seconds).append(time.perf_counter() - connection.began)
        if closes:
            connection.transport.close()
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        if connection in self._busy:
            self._busy.discard(connection)
            self.statuses["0"] += 1
        elif connection in self._idle:
            self._idle.remove(connection)

    async def _open(self) -> None:
        self._opening += 1
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._host, self._port, local_addr=(self._source, 0)
            )
            self._send(connection)
        except OSError:
            self.statuses["0"] += 1
        finally:
            self._opening -= 1

    def _send(self, connection: _Connection) -> None:
        self._busy.add(connection)
        connection.ask(self._request)

    async def run(self) -> None:
        began, sent = time.perf_counter(), 0
        opening: set[asyncio.Task[None]] = set()
        while True:
            due = int((time.perf_counter() - began) * self._rate)
            while sent < due:
                sent += 1
                if len(self._busy) + self._opening >= LEAD_S * self._rate:
                    continue
                if self._idle:
                    self._send(self._idle.pop())
                else:
                    task = asyncio.ensure_future(self._open())
                    opening.add(task)
                    task.add_done_callback(opening.discard)
            await asyncio.sleep(TICK_S)
