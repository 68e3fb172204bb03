"""HTTP/1 of one connection: uvicorn's protocol on h11, with what stock clients and proxies need besides.

h11 ignores upgrade offers (the h2c of Java's client) and never chunks to HTTP/1.0. Here: errors in OpenAI's format
before there is a request, half-closed clients, and a shorter way for the chunks of a stream.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from services.router.connection_times import ConnectionTimeouts, ConnectionTimes, Late
from services.router.gateway.errors import REASONS
from services.router.gateway.streaming import CHUNK_WRITER

MAX_HEAD_BYTES = 64 << 10  # of a request; the middleware's own limits are lower, and its answers have a request id
LOOK_S = 0.1  # between two looks at a half-closed client
UNSENT_BYTES = 16 << 10  # that wait in this process, and in the kernel beyond what a client's window takes
CUT_OFF = "The connection ended before the request was complete."
PARTS = 256  # of a body that are taken without a look at others' work: chunks may have a byte each
DROP_BYTES, DROP_S = 4 << 20, 5.0  # what a client may still send after its request could not be read


Rejection = Callable[[bytes, str], bytes | None]


class HttpConnection(h11.Connection):
    """h11's state of one connection. `begin` sends the first byte of an answer before the answer is known."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.parts_left = PARTS
        self._chunked = False
        self._begun = 0  # bytes of the next answer that were sent already

    def begin(self) -> bytes:
        """The first byte of any answer; empty when it was sent already."""
        data = b"" if self._begun else b"H"
        self._begun = 1
        return data

    def send(self, event: Any) -> Any:
        """As h11's. A chunk of a stream is framed right here: that is a tenth of what a token costs a router."""
        if self._chunked and type(event) is h11.Data and event.data:
            return self.framed(event.data)
        data = super().send(event)
        if type(event) is h11.Response:
            self._chunked = b"\r\ntransfer-encoding: chunked\r\n" in data.lower()
        if data and self._begun:
            data, self._begun = data[self._begun :], 0
        return data

    def framed(self, data: bytes) -> bytes:
        """A part of the body as it is sent: a chunk, or to HTTP/1.0 clients as it is."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def next_event(self) -> Any:
        """As h11's, but it asks for more data where it has given as many parts of a body as it may for now, and raises
        RemoteProtocolError for a request of another version than HTTP/1, such as the one that begins HTTP/2."""
        if self.parts_left <= 0:
            return h11.NEED_DATA
        event = super().next_event()
        if type(event) is h11.Request and not event.http_version.startswith(b"1."):
            raise h11.RemoteProtocolError("another version of HTTP", error_status_hint=505)
        self.parts_left -= type(event) is h11.Data
        return event

    def receive_data(self, data: bytes) -> None:
        """As h11's, but for empty lines before a request, which old clients send after a body (RFC 9112, 2.2)."""
        if data and self.their_state is h11.IDLE and not self.trailing_data[0]:
            data = data.lstrip(b"\r\n")
        if data:
            super().receive_data(data)


class ChunkWriter:
    """Writes parts of a body that has begun straight to its connection: the way through ASGI costs as much again.

    In a scope's extensions under CHUNK_WRITER.
    """

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol, self._cycle = protocol, protocol.cycle

    @property
    def ready(self) -> bool:
        """Whether the body has begun, and the client reads it."""
        cycle = self._cycle
        going_on = cycle.response_started and not (cycle.response_complete or cycle.disconnected)
        return going_on and not self._protocol.flow.write_paused

    def write(self, data: bytes) -> None:
        """Sends a part of the body. A client that has gone is noticed elsewhere."""
        if not self._protocol.transport.is_closing():
            self._protocol.transport.write(self._protocol.conn.framed(data))

    def abort(self) -> None:
        """Drops a client that does not read, with what it has not read."""
        self._cycle.disconnected = True
        self._protocol.transport.abort()


class HttpProtocol(H11Protocol):
    """One connection. Made by the server, with uvicorn's arguments and its own `timeouts`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        timeouts: ConnectionTimeouts = ConnectionTimeouts(),  # noqa: B008  frozen
        rejection: Rejection = lambda data, host: None,
    ) -> None:
        """`rejection`: returns the whole answer to a whole request that is rejected, by the client's address."""
        super().__init__(config, server_state, app_state, _loop)
        self._rejection = rejection
        self.conn: HttpConnection = HttpConnection()
        self.times = ConnectionTimes(self.loop.time(), timeouts)
        self._timeouts = timeouts
        self._unread, self._read_at = 0, self.times.quiet_since  # bytes that wait for the client, and when it read some
        self._half_closed = self._goes_on = False
        self._drops: int | None = None  # bytes that may still come; None as long as they are read

    @property
    def host(self) -> str:
        """The client's address."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)

    def _rejected(self, data: bytes) -> bool:
        """Answers a request that came as a whole, where nothing else of the connection is on its way."""
        idle = self.conn.their_state is h11.IDLE and not (self.conn.trailing_data[0] or self._half_closed)
        if not idle or self.flow.write_paused or (answer := self._rejection(data, self.host)) is None:
            return False
        self.times.answered(self.loop.time())
        self.transport.write(answer)
        return True

    def data_received(self, data: bytes) -> None:
        if self._drops is None:
            if self.times.idle and self._rejected(data):
                return
            self.times.received(self.loop.time(), len(data))
            super().data_received(data)
            if self.times.idle and not self.conn.trailing_data[0]:
                self.times.no_head()
            return
        self._drops -= len(data)
        if self._drops < 0:
            self.transport.close()

    def handle_events(self) -> None:
        """As uvicorn's. The application of a new request starts later, and finds its writer then."""
        before = self.cycle
        self.conn.parts_left = PARTS
        super().handle_events()
        if self.conn.parts_left <= 0 and not self._goes_on:
            self._goes_on = True
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)
        if self.cycle is not None and self.cycle is not before:
            self.times.requested(self.loop.time())
            extensions: dict[Any, Any] = self.scope.setdefault("extensions", {})
            extensions[CHUNK_WRITER] = ChunkWriter(self)
        if self.cycle is not None and not self.cycle.more_body:
            self.times.has_body()

    def _go_on(self) -> None:
        """Takes the next parts of a body, now that others had their turn."""
        self._goes_on = False
        if self._drops is None and not self.transport.is_closing():
            if len(self.cycle.body) <= HIGH_WATER_LIMIT:
                self.flow.resume_reading()
            self.handle_events()

    def end_if_late(self, now: float, *, hurried: bool = False) -> Late | None:
        """Ends a connection that has taken too long; returns for what, if it does. `now`: by the loop's clock.
        `hurried`: as of ConnectionTimes."""
        waiting, self._unread = self._unread, self.transport.get_write_buffer_size()
        if not self._unread or self._unread < waiting:
            self._read_at = now
        elif now - self._read_at > self._timeouts.unread_s:
            self.transport.abort()
            return "reading"
        if self.transport.is_closing():
            return None
        late = self.times.late(now, hurried=hurried) if self._drops is None and not self.flow.read_paused else None
        if late == "idle":
            self.transport.close()
        elif late is not None:
            self._reject(408)
        return late

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn closes always
        """Whether the client, which sends no more, gets an answer: if a whole request came before."""
        if self._drops is not None:
            return False
        if self.cycle is None or self.cycle.response_complete:
            if self.conn.trailing_data[0]:
                self._reject(400, CUT_OFF)
            return False
        if self.cycle.more_body:
            self._reject(400, CUT_OFF)
            return False
        if not self._half_closed:
            self._half_closed = True
            self.loop.call_soon(self._look)
        return True

    def _look(self) -> None:
        """Finds out whether a half-closed client is still there. One that has left resets the connection when it is
        sent something, and the socket's error shows that; so before an answer begins, its first byte is sent."""
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        if not self.cycle.response_started and (data := self.conn.begin()):
            self.transport.write(data)
        self.loop.call_later(LOOK_S, self._look)

    def on_response_complete(self) -> None:
        self.times.answered(self.loop.time())
        super().on_response_complete()
        if self._half_closed and self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, and what h11 does not take, with the status that h11 suggests."""
        error = sys.exception()
        self._reject(error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400)

    def _reject(self, status: int, message: str = "") -> None:
        """Answers a request that was not read to its end, unless its answer has begun, and closes the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            started = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if started:
                self.transport.close()
                return
        self._unset_keepalive_if_required()
        self.transport.write(unread_answer(status, message))
        # Closed with unread bytes, the socket would be reset, and the client would lose the answer.
        self._drops = DROP_BYTES
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(DROP_S, self.transport.close)


def unread_answer(status: int, message: str = "") -> bytes:
    """A whole answer to a request that could not be read. `message`: instead of the usual one of that status."""
    usual, code = REASONS.get(status, REASONS[400])
    error = {"message": message or usual, "type": "invalid_request_error", "param": None, "code": code}
    body = orjson.dumps({"error": error})
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {uuid.uuid4().hex}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
