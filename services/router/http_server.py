"""The HTTP server: uvicorn's, which takes connections only as long as the limit of open files leaves room for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import structlog
import uvicorn

from services.router.http_protocol import HttpProtocol

log = structlog.get_logger(__name__)

BACKLOG = 2048  # connections that wait in the kernel
FULL_S = 0.05  # between two looks for room
QUIET_S = 60.0
FAILED_S = 0.2  # after an accept that failed for want of files or memory


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the process decides when to stop.

    It accepts by itself. libuv closes connections that it cannot open a file for, without a byte or a log line; here
    they wait in the kernel until others have ended.
    """

    def __init__(self, config: uvicorn.Config, most: int) -> None:
        """`most`: connections at once."""
        super().__init__(config)
        self._most, self._quiet_until = most, 0.0

    def listen(self, listener: socket.socket) -> None:
        """Takes a bound socket. Clients may connect from now on; they are served once `serve` runs."""
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._listener = listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._accepting = asyncio.create_task(self._accept())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        await super().shutdown([])

    async def on_tick(self, counter: int) -> bool:
        if self._accepting.done():
            self._accepting.result()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        failed = False
        while True:
            await self._room()
            try:
                connected, _ = await loop.sock_accept(self._listener)
                failed = False
            except ConnectionError:  # it left before it was accepted
                continue
            except OSError as error:
                if not failed:
                    log.warning("no connection can be accepted", error=str(error))
                failed = True
                await asyncio.sleep(FAILED_S)
                continue
            with contextlib.suppress(OSError):
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.connect_accepted_socket(self._protocol, connected)

    async def _room(self) -> None:
        """Waits until a connection may be accepted. Logs that none may, at most once a minute."""
        while len(self.server_state.connections) >= self._most:
            if time.monotonic() >= self._quiet_until:
                log.warning("as many connections as files may be open: more have to wait", connections=self._most)
                self._quiet_until = time.monotonic() + QUIET_S
            await asyncio.sleep(FULL_S)

    def _protocol(self) -> HttpProtocol:
        return HttpProtocol(self.config, self.server_state, {}, asyncio.get_running_loop())
