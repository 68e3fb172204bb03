"""Sends cached pages to the workers that continue their sequences, and says when a draining worker need not wait more.

Pages are read in batches by the engine's thread, between two steps; their checksums are made on a thread of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import grpc
from caracal_proto import attention_pb2
from torch import Tensor

from services.attention_worker.engine.page_exchange import PageExchange
from services.attention_worker.migration.checksum import page_checksum
from services.attention_worker.migration.limits import UNASKED_S
from services.attention_worker.migration.stats import MigrationStats
from services.prefixes.page_names import NAME_BYTES

BATCH_BYTES = 16 << 20  # that are copied between two steps; a page at least
MESSAGE_BYTES = 1 << 20  # as well
MOST_CALLS = 16  # at once
LOOK_S = 0.05


class CallRejected(Exception):
    """A call that gets no pages, with the gRPC status that says why."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class PageServer:
    """The pages of one engine. Used on one event loop."""

    def __init__(self, exchange: PageExchange, stats: MigrationStats) -> None:
        self._exchange, self._stats = exchange, stats
        self._calls = 0
        self._asked_at = 0.0

    async def pages(self, request: attention_pb2.PagesRequest) -> AsyncGenerator[attention_pb2.PagesReply]:
        """The pages that a caller asks for. Raises CallRejected."""
        names = _split(request.names)
        if self._calls >= MOST_CALLS:
            raise CallRejected(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_CALLS} workers are being sent pages")
        self._calls += 1
        try:
            async for reply in self._read(names[request.first :]):
                yield reply
            self._exchange.asked_for(names)
        except RuntimeError as error:
            raise CallRejected(grpc.StatusCode.UNAVAILABLE, str(error)) from None
        finally:
            self._calls -= 1
            self._asked_at = time.monotonic()

    async def handed_over(self, limit_s: float, successor: Callable[[], Awaitable[bool]]) -> None:
        """Waits until the pages of all evicted sequences were asked for and sent, `limit_s` at most.

        No longer either when nobody asks for any, or when there is no `successor`.
        """
        began = self._asked_at = time.monotonic()
        look = asyncio.ensure_future(_none_left(successor))
        try:
            while self._exchange.handed_over or self._calls:
                now = time.monotonic()
                unasked = not self._calls and now > self._asked_at + UNASKED_S
                if unasked or look.done() or now > began + limit_s:
                    return
                await asyncio.sleep(LOOK_S)
        finally:
            look.cancel()

    async def _read(self, names: Sequence[bytes]) -> AsyncGenerator[attention_pb2.PagesReply]:
        batch = max(1, BATCH_BYTES // self._exchange.page_bytes)
        for start in range(0, len(names), batch):
            wanted = names[start : start + batch]
            found_RB = await asyncio.wrap_future(self._exchange.read(wanted))
            for reply in await asyncio.to_thread(_replies, wanted, found_RB):
                yield reply
                self._stats.pages_sent += len(reply.pages)
                self._stats.bytes_sent += sum(len(page.latents) for page in reply.pages)
            if len(found_RB) < len(wanted):
                return


async def _none_left(successor: Callable[[], Awaitable[bool]]) -> None:
    while await successor():  # noqa: ASYNC110 - what others' leases say
        await asyncio.sleep(UNASKED_S / 4)


def _split(names: bytes) -> list[bytes]:
    if len(names) % NAME_BYTES:
        raise CallRejected(grpc.StatusCode.INVALID_ARGUMENT, f"names has {len(names)} bytes, and a name {NAME_BYTES}")
    return [names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)]


def _replies(names: Sequence[bytes], found_RB: Tensor) -> list[attention_pb2.PagesReply]:
    replies, size = list[attention_pb2.PagesReply](), MESSAGE_BYTES
    for name, row_B in zip(names, found_RB.numpy(), strict=False):
        if size >= MESSAGE_BYTES:
            replies.append(attention_pb2.PagesReply())
            size = 0
        latents = row_B.tobytes()
        replies[-1].pages.add(latents=latents, checksum=page_checksum(name, latents))
        size += len(latents)
    return replies
