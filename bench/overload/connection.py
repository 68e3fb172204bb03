"""Requests over kept connections from a chosen loopback address, for callers that the router can tell apart."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit


class Connections:
    """Connections to one server, used again when they are idle."""

    def __init__(self, url: str, source: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._source = parts.hostname or "", parts.port or 0, source
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, local_addr=(self._source, 0))

    async def ask(self, request: bytes) -> int:
        """Sends a request and reads its whole answer, whose length is in its headers; returns the status, 0 if none."""
        reader, writer = self._idle.pop() if self._idle else await self.open()
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        except (OSError, ValueError, asyncio.IncompleteReadError):
            writer.close()
            return 0
        except asyncio.CancelledError:
            writer.close()
            raise
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split()[1])


def completion(tokens: int, *, stream: bool = False) -> bytes:
    """A greedy completion of so many tokens, as it goes over the wire."""
    body = json.dumps(
        {"prompt": [5, 6, 7, 8] * 4, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": stream}
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n"
