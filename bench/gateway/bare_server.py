"""What a stream costs at least: `python -m bench.gateway.bare_server TOKENS_PER_S STREAMS`.

A uvloop server that answers any request with events made beforehand and does nothing but write them, for 64 streams in
one turn of the loop, as a router does with a step's tokens. Prints its URL; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from bench.gateway.sent_at import DIGITS
from services.process.open_files import raise_open_files

TOGETHER = 64
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[{"index":0,"delta":{"content":" ' + b"0" * DIGITS + b'"},"finish_reason":null}]}\n\n'
)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Stream(asyncio.Protocol):
    def __init__(self, turns: list[list[asyncio.WriteTransport]]) -> None:
        self._turns = turns
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's have no base class of asyncio's

    def data_received(self, data: bytes) -> None:
        """A benchmark's request comes in one piece."""
        assert self._transport is not None
        self._transport.write(HEAD)
        min(self._turns, key=len).append(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for turn in self._turns:
            if self._transport in turn:
                turn.remove(self._transport)


async def tick(turn: list[asyncio.WriteTransport], begin_s: float, step_s: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + begin_s
    while True:
        await asyncio.sleep(due - loop.time())
        for transport in turn:
            transport.write(CHUNK)
        due += step_s


async def serve(tokens_per_s: float, streams: int) -> None:
    count = -(-streams // TOGETHER)
    turns: list[list[asyncio.WriteTransport]] = [[] for _ in range(count)]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stream(turns), "127.0.0.1", 0, backlog=1024)
    ticks = [
        asyncio.create_task(tick(turn, number / count / tokens_per_s, 1 / tokens_per_s))
        for number, turn in enumerate(turns)
    ]
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    for ticking in ticks:
        ticking.cancel()


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(serve(float(sys.argv[1]), int(sys.argv[2])))
