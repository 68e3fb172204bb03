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
BATCH = 64  # connections taken without a look at others' work
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
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.TimerHandle | None = None  # until connections are accepted again

    def listen(self, listener: socket.socket) -> None:
        """Takes a bound socket. Clients may connect from now on; they are served once `serve` runs."""
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._listener = listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._resume()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._pause()
        self._listener.close()
        await super().shutdown([])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _resume(self) -> None:
        self._waiting = None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _pause(self, seconds: float = 0.0) -> None:
        """Accepts nothing, for so long or for good."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = loop.call_later(seconds, self._resume) if seconds else None

    def _accept(self) -> None:
        """Takes the connections that wait, as far as there is room."""
        for _ in range(BATCH):
            if len(self.server_state.connections) + len(self._opening) >= self._most:
                self._warn("as many connections as files may be open: more have to wait", connections=self._most)
                self._pause(FULL_S)
                return
            try:
                connected, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):  # there is none, or it left before it was accepted
                return
            except OSError as error:
                self._warn("no connection can be accepted", error=str(error))
                self._pause(FAILED_S)
                return
            opening = asyncio.create_task(self._open(connected))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connected: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connected)

    def _warn(self, event: str, **more: object) -> None:
        """Logs why clients wait, at most once a minute."""
        if time.monotonic() >= self._quiet_until:
            log.warning(event, **more)
            self._quiet_until = time.monotonic() + QUIET_S

    def _protocol(self) -> HttpProtocol:
        return HttpProtocol(self.config, self.server_state, {}, asyncio.get_running_loop())
