"""One sequence's pages on their way here: read in order, verified, and put into the engine's cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import grpc
import grpc.aio
from caracal_proto import attention_pb2

from services.attention_worker.engine.page_exchange import PageExchange
from services.attention_worker.migration.checksum import page_checksum
from services.attention_worker.migration.estimate import too_slow
from services.attention_worker.migration.limits import INSERT_BYTES
from services.attention_worker.migration.stats import Fallback

LEAST_WAIT_S, MOST_WAIT_S = 0.5, 5.0  # for the next pages
_UNREACHABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}

Pages = Sequence[tuple[bytes, bytes]]  # names and bytes


class GivenUp(Exception):
    """The pages that are still missing are computed."""

    def __init__(self, reason: Fallback, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class Transfer:
    """`names`: of the pages that are missing here, in order."""

    def __init__(self, exchange: PageExchange, names: Sequence[bytes]) -> None:
        self._exchange, self._names = exchange, names
        self.came = 0  # pages, verified
        self.seconds = 0.0  # that it took
        self._waiting: list[tuple[bytes, bytes]] = []  # to be inserted
        self._inserting: asyncio.Future[bool] | None = None

    @property
    def left(self) -> int:
        """How many pages are missing still."""
        return len(self._names) - self.came

    async def run(self, call: Any, compute_s: Callable[[], float], keep: Callable[[], Collection[bytes]]) -> None:
        """Reads a call of Attention.Pages to its end. Raises GivenUp, once it would be faster to compute the rest.

        `compute_s`: how long that takes now. `keep`: names of pages that make no room for these.
        """
        began = time.monotonic()
        try:
            while self.left:
                reply = await next_reply(call, compute_s())
                if reply is None:
                    raise GivenUp("not there", f"{self.left} pages")
                await self._take(reply, keep)
                self.seconds = time.monotonic() - began
                if self.left and too_slow(self.came, self.left, self.seconds, compute_s()):
                    raise GivenUp("slow", f"{self.left} pages would take longer")
            await self._inserted()
            self._insert(keep)
            await self._inserted()
        finally:
            self._insert(keep)

    async def _take(self, reply: attention_pb2.PagesReply, keep: Callable[[], Collection[bytes]]) -> None:
        names = self._names[self.came : self.came + len(reply.pages)]
        if len(names) < len(reply.pages):
            raise GivenUp("damaged", "more pages than were asked for")
        self._waiting += await asyncio.to_thread(_verified, names, reply, self._exchange.page_bytes)
        self.came += len(names)
        if len(self._waiting) * self._exchange.page_bytes >= INSERT_BYTES:
            await self._inserted()
        if self._inserting is None or self._inserting.done():
            await self._inserted()
            self._insert(keep)

    def _insert(self, keep: Callable[[], Collection[bytes]]) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._inserting = asyncio.wrap_future(self._exchange.insert(waiting, keep()))

    async def _inserted(self) -> None:
        if self._inserting is not None:
            inserting, self._inserting = self._inserting, None
            if not await inserting:
                raise GivenUp("no room")


async def next_reply(call: Any, compute_s: float) -> attention_pb2.PagesReply | None:
    """The next reply; None at the end of the call. Raises GivenUp."""
    try:
        async with asyncio.timeout(min(MOST_WAIT_S, max(LEAST_WAIT_S, compute_s))):
            reply = await call.read()
    except TimeoutError:
        raise GivenUp("slow", "nothing comes") from None
    except grpc.aio.AioRpcError as error:
        reason: Fallback = "unreachable" if error.code() in _UNREACHABLE else "rejected"
        reason = "damaged" if error.code() is grpc.StatusCode.DATA_LOSS else reason
        raise GivenUp(reason, f"{error.code().name}: {error.details()}") from None
    return None if reply is grpc.aio.EOF else reply


def _verified(names: Sequence[bytes], reply: attention_pb2.PagesReply, page_bytes: int) -> Pages:
    """Raises GivenUp for a page that is not the one that was sent."""
    pages = []
    for name, page in zip(names, reply.pages, strict=True):
        if len(page.latents) != page_bytes:  # with other caches for drafts
            raise GivenUp("rejected", f"a page has {len(page.latents)} bytes there, and {page_bytes} here")
        if page_checksum(name, page.latents) != page.checksum:
            raise GivenUp("damaged", "a page is not what its checksum says")
        pages.append((name, page.latents))
    return pages
