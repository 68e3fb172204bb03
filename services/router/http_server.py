"""The HTTP server: uvicorn's, which takes connections only as long as the limit of open files leaves room for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

import structlog
import uvicorn

from services.router.connection_times import ConnectionTimeouts
from services.router.http_protocol import UNSENT_BYTES, HttpProtocol, Rejection

log = structlog.get_logger(__name__)

BACKLOG = 2048  # connections that wait in the kernel
BATCH = 64  # connections taken without a look at others' work
FULL_S = 0.05  # between two looks for room
QUIET_S = 60.0
FAILED_S = 0.2  # after an accept that failed for want of files or memory
SWEEP_S = 1.0  # between two looks for connections that take too long
SPARED_S = 1.0  # a connection that is as young, or was as lately used, is not closed to make room


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the process decides when to stop.

    It accepts by itself. libuv closes connections that it cannot open a file for, without a byte or a log line; here
    they wait in the kernel until others have ended, and the idle ones make room.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        most: int,
        timeouts: ConnectionTimeouts,
        rejection: Rejection,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """`most`: connections at once. `rejection`: as HttpProtocol's. `hurried`: whether bodies have to come fast."""
        super().__init__(config)
        self._hurried = hurried
        self._most, self._timeouts, self._rejection = most, timeouts, rejection
        self._quiet_until: dict[str, float] = {}
        self._late: Counter[str] = Counter()  # connections ended since the last log line, by what they were late with
        self._sweeping: asyncio.TimerHandle | None = None
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
        self._sweep()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._pause()
        if self._sweeping is not None:
            self._sweeping.cancel()
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
                closed = self._make_room()
                self._warn("as many connections as files may be open: more have to wait", idle_closed=closed)
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
            # So that it shows soon when a client does not read: else the kernel takes megabytes for it.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connected)

    def _sweep(self) -> None:
        """Ends the connections that take too long."""
        loop = asyncio.get_running_loop()
        now, hurried = loop.time(), self._hurried()
        for connection in self._connections():
            if (late := connection.end_if_late(now, hurried=hurried)) not in (None, "idle"):
                self._late[str(late)] += 1
        if self._late and self._warn("clients were too slow, their connections are closed", **self._late):
            self._late.clear()
        self._sweeping = loop.call_later(SWEEP_S, self._sweep)

    def _make_room(self) -> int:
        """Closes connections without a request, first of the address with the most; returns how many."""
        now = asyncio.get_running_loop().time()
        connections = self._connections()
        of_host = Counter(connection.host for connection in connections)
        idle = [one for one in connections if one.times.idle and now - one.times.quiet_since > SPARED_S]
        idle.sort(key=lambda one: (-of_host[one.host], one.times.quiet_since))
        for connection in idle[:BATCH]:
            connection.transport.abort() if connection.transport.is_closing() else connection.transport.close()
        return len(idle[:BATCH])

    def _connections(self) -> list[HttpProtocol]:
        return [one for one in self.server_state.connections if isinstance(one, HttpProtocol)]

    def _warn(self, event: str, **more: object) -> bool:
        """Logs at most once a minute; returns whether it did."""
        if time.monotonic() < self._quiet_until.get(event, 0.0):
            return False
        log.warning(event, **more)
        self._quiet_until[event] = time.monotonic() + QUIET_S
        return True

    def _protocol(self) -> HttpProtocol:
        loop = asyncio.get_running_loop()
        return HttpProtocol(self.config, self.server_state, {}, loop, self._timeouts, self._rejection)
