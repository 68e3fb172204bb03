"""A response that is computed while its client waits. It ends with the client, and always says how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.router.gateway.errors import INTERNAL_ERROR, error_headers
from services.router.gateway.json_bytes import json_bytes
from services.router.requests.errors import RouterError

log = structlog.get_logger(__name__)

CHUNK_WRITER = "caracal.chunk_writer"  # in the extensions of a scope

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
PING_S = 10.0
UNREAD_S = 8.0  # that a client may read nothing of a stream; its place at a worker is others' within 10 s
LOOK_S = 1.5  # between two looks at a client


class ChunkWriter(Protocol):
    """What the server offers in a scope's extensions: parts of a body without ASGI."""

    @property
    def ready(self) -> bool: ...

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


class Client:
    """The client of one response. Nothing is sent before the first data, so an early error has its own status."""

    ping = PING
    done = DONE  # what ends a stream

    def __init__(self, send: Send, writer: ChunkWriter | None = None) -> None:
        """`writer`: a shorter way for events once the first were sent; None if the server has none."""
        self._send, self._writer = send, writer
        self.started = False
        self.wrote_at = time.monotonic()
        self.blocked_since: float | None = None  # set while a write waits for the client to read

    @property
    def writable(self) -> bool:
        """Whether `write` may be called: the response has begun, and the client reads it."""
        return self._writer is not None and self.started and self._writer.ready

    def drop(self) -> None:
        """Ends the connection to a client that does not read."""
        if self._writer is not None:
            self._writer.abort()

    def write(self, data: bytes) -> None:
        """Sends complete events at once."""
        assert self._writer is not None
        self.wrote_at = time.monotonic()
        self._writer.write(data)

    async def events(self, data: bytes) -> None:
        """Sends complete server-sent events."""
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        self.wrote_at = self.blocked_since = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.blocked_since = None

    async def end(self) -> None:
        if self.done:
            await self.events(self.done)
        await self._close()

    async def last(self, data: bytes) -> None:
        """Sends the last events and ends the stream without more."""
        await self.events(data)
        await self._close()

    async def _close(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Sends one JSON value as the whole response."""
        body = json_bytes(value)
        self.started = True
        length = (b"content-length", str(len(body)).encode())
        start = [(b"content-type", b"application/json"), length, *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": start})
        await self._send({"type": "http.response.body", "body": body})

    async def error(self, error: RouterError) -> None:
        """Sends an error: as status and body while nothing has been sent, else as an event, and ends the stream."""
        if self.started:
            await self.events(self.error_event(error))
            await self.end()
        else:
            await self.whole(self.error_body(error), error.status, error_headers(error))

    def error_body(self, error: RouterError) -> dict[str, Any]:
        return dict(error.body())

    def error_event(self, error: RouterError) -> bytes:
        """Returns the event of an error that ends a stream."""
        return b"data: " + json_bytes(error.body()) + b"\n\n"


Produce = Callable[[Client], Coroutine[Any, Any, None]]


class GenerationResponse(Response):
    """Runs `produce` until it is done or the client is gone. With `stream`, pings are sent in pauses."""

    def __init__(
        self, produce: Produce, *, stream: bool, client: Callable[[Send, ChunkWriter | None], Client] = Client
    ) -> None:
        self._produce = produce
        self._client = client
        self._stream = stream
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._client(send, scope.get("extensions", {}).get(CHUNK_WRITER))
        watchers: list[Coroutine[Any, Any, None]] = [until_disconnect(receive)]
        if self._stream:
            watchers.append(keep_awake(client))
        try:
            await first_of(self._produce(client), watchers)
        except RouterError as error:
            await client.error(error)
        except Exception:
            log.exception("request failed")
            await client.error(RouterError(INTERNAL_ERROR))


async def until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def keep_awake(client: Client, every_s: float = PING_S, unread_s: float = UNREAD_S) -> None:
    """Sends comment events while nothing else is sent: proxies close idle connections.

    Returns, and drops the client, when it has read nothing for `unread_s`: its sequence takes a place at a worker.
    """
    while True:
        now = time.monotonic()
        if client.blocked_since is not None:
            if now - client.blocked_since > unread_s:
                break
        elif now - client.wrote_at >= every_s:
            try:
                async with asyncio.timeout(unread_s):
                    await client.events(client.ping)
            except TimeoutError:
                break
        await asyncio.sleep(min(LOOK_S, every_s / 4))
    log.info("client does not read")
    client.drop()


async def first_of(main: Coroutine[Any, Any, None], watchers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs `main` until it or a watcher ends; cancels and awaits the others."""
    task = asyncio.ensure_future(main)
    watching = [asyncio.ensure_future(watcher) for watcher in watchers]
    try:
        await asyncio.wait([task, *watching], return_when=asyncio.FIRST_COMPLETED)
    finally:
        left = [other for other in (task, *watching) if not other.done()]
        for other in left:
            other.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    if not task.cancelled():
        task.result()


async def run_all(coroutines: list[Awaitable[None]]) -> None:
    """Awaits all of them; the first error cancels the others and is raised."""
    if len(coroutines) == 1:
        return await coroutines[0]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [result for result in results if isinstance(result, Exception)]
    if errors:
        raise errors[0]
    return None
