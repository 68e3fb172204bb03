"""One process of load: `python -m bench.overload.client KIND URL SOURCE TOKENS AMOUNT`. Prints `ready`, and begins.

KIND: `open`, AMOUNT requests a second, answered or not; `closed`, AMOUNT at a time; `unread`, AMOUNT streams that are
not read; `direct`, AMOUNT calls of Generate at the worker URL, again and again; `light`, one request after the other;
`refused`, the same with pauses, from a crowd's address; `health`, /health again and again. Goes on until a line comes
on standard input; then prints JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import grpc
import uvloop
from caracal_proto import attention_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub

from bench.overload.connection import HEALTH, Connections, completion
from bench.overload.open_load import OpenLoad
from services.process.open_files import raise_open_files

HEALTH_EVERY_S = REFUSED_EVERY_S = 0.02
TIMED = ("light", "health", "refused")


class Client:
    """Counts answers, and their times."""

    def __init__(self, url: str, source: str, tokens: int, amount: float) -> None:
        self._url, self._source, self._tokens, self._amount = url, source, tokens, amount
        self._connections = Connections(url, source)
        self._tasks: set[asyncio.Task[None]] = set()
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.refused_seconds: list[float] = []
        self.health_seconds: list[float] = []

    async def _one(self) -> None:
        began = time.perf_counter()
        status = await self._connections.ask(completion(self._tokens))
        self.statuses[str(status)] += 1
        (self.seconds if status == 200 else self.refused_seconds).append(time.perf_counter() - began)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def open(self) -> None:
        load = OpenLoad(self._url, self._source, completion(self._tokens), self._amount)
        self.statuses, self.seconds, self.refused_seconds = load.statuses, load.seconds, load.refused_seconds
        await load.run()

    async def closed(self) -> None:
        async def again() -> None:
            while True:
                before = self.statuses["200"]
                await self._one()
                if self.statuses["200"] == before:
                    await asyncio.sleep(1)  # as Retry-After asks for, at least

        for _ in range(int(self._amount)):
            self._start(again())
        await asyncio.Future()

    async def unread(self) -> None:
        async def hold() -> None:
            while True:
                reader, writer = await self._connections.open()
                writer.transport.pause_reading()  # type: ignore[attr-defined]  # uvloop's has it
                writer.write(completion(self._tokens, stream=True))
                await asyncio.sleep(30)
                writer.transport.abort()
                del reader

        for number in range(int(self._amount)):
            self._start(hold())
            if number % 32 == 31:
                await asyncio.sleep(0.01)
        await asyncio.Future()

    async def direct(self) -> None:
        channel = grpc.aio.insecure_channel(self._url)
        request = attention_pb2.GenerateRequest(request_id="direct", attempt=1, prompt_ids=[5, 6, 7, 8] * 4)
        request.sampling.max_tokens, request.sampling.ignore_eos = self._tokens, True

        async def again() -> None:
            while True:
                try:
                    async for _ in AttentionStub(channel).Generate(request):
                        pass
                    self.statuses["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    self.statuses[error.code().name] += 1
                    await asyncio.sleep(1)

        for _ in range(int(self._amount)):
            self._start(again())
        await asyncio.Future()

    async def light(self) -> None:
        while True:
            await self._one()

    async def refused(self) -> None:
        while True:
            await self._one()
            await asyncio.sleep(REFUSED_EVERY_S)

    async def health(self) -> None:
        while True:
            began = time.perf_counter()
            await self._connections.ask(HEALTH)
            self.health_seconds.append(time.perf_counter() - began)
            await asyncio.sleep(HEALTH_EVERY_S)

    async def run(self, kind: str) -> None:
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(getattr(self, kind)())
        print("ready", flush=True)
        began = time.perf_counter()
        await loop.run_in_executor(None, sys.stdin.readline)
        took = time.perf_counter() - began
        figures = {
            "seconds": took,
            "statuses": dict(self.statuses),
            "answers_s": percentiles(self.seconds),
            "rejections_s": percentiles(self.refused_seconds),
            "health_s": percentiles(self.health_seconds),
        }
        print(json.dumps(figures), flush=True)
        for task in (work, *self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(work, *self._tasks, return_exceptions=True)


def percentiles(seconds: list[float]) -> dict[str, float]:
    found = sorted(seconds)
    if not found:
        return {}
    return {f"p{q}": round(found[min(len(found) - 1, len(found) * q // 100)], 4) for q in (50, 90, 99)}


def main() -> None:
    raise_open_files()
    if sys.argv[1] not in TIMED:
        os.nice(10)  # a crowd has machines of its own: here it gets what the cluster leaves it
    kind, url, source, tokens, amount = sys.argv[1:]
    uvloop.run(Client(url, source, int(tokens), float(amount)).run(kind))


if __name__ == "__main__":
    main()
