"""A proxy before an expert worker, whose link somebody else decides on.

It serves gRPC and passes everything on. A native session that is opened through it leads through it too. Each end has
a thread of its own, since an event loop's timers are a millisecond coarse.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import grpc
from caracal_proto import expert_pb2
from caracal_proto.sealing import sealed

CHUNK = 1 << 18
CALLS = 64  # at once
NO_DEADLINE_S = 1e6  # a call without a deadline says that some centuries are left, which a timeout cannot hold
OPEN, SESSION = "/caracal.Expert/Open", "/caracal.Expert/Session"
NOT_HERE = "not-here"  # no unix socket has this name
CALL, REPLY = "call", "reply"  # the two ways


class Link(Protocol):
    """What decides when something may go on its way. Any thread may ask."""

    def holds(self, way: str, method: str) -> bool:
        """Whether `pass_on` is to be asked about what goes that way; `method` is SESSION for native sessions too."""

    def pass_on(self, way: str, arrived_s: float, piece: Any) -> Any:
        """Returns when a piece that arrived then (`time.perf_counter`) may go on: what goes on in its place."""


class Pieces:
    """What goes one way: put in by one thread, taken out by another as the link lets it."""

    def __init__(self, link: Link, way: str, method: str) -> None:
        self._link, self._way, self._held = link, way, link.holds(way, method)
        self._queue: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()

    def put(self, piece: Any) -> None:
        self._queue.put((time.perf_counter(), piece))

    def get(self) -> Any:
        arrived_s, piece = self._queue.get()
        return self._link.pass_on(self._way, arrived_s, piece) if self._held else piece


class Forwarder(grpc.GenericRpcHandler):
    """Passes calls of any method on as bytes."""

    def __init__(self, listen: str, target: str, link: Link) -> None:
        self._listen_host, self._target_host = listen.rsplit(":", 1)[0], target.rsplit(":", 1)[0]
        self._link = link
        self._channel = grpc.insecure_channel(target)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method

        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from self._forward(method, requests, context)

        return grpc.stream_stream_rpc_method_handler(forward)

    def _forward(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        start: Any = self._channel.stream_stream(method)
        left_s = context.time_remaining()
        passed = self._passed(requests) if self._link.holds(CALL, method) else requests
        call = start(passed, timeout=left_s if left_s < NO_DEADLINE_S else None)
        context.add_callback(call.cancel)
        replies = Pieces(self._link, REPLY, method)
        threading.Thread(target=_read_replies, args=(call, replies.put), daemon=True).start()
        while isinstance(reply := replies.get(), bytes):
            yield self._led_through_here(reply) if method == OPEN else reply
        if isinstance(reply, grpc.Call):
            context.abort(reply.code(), reply.details())

    def _passed(self, requests: Iterator[bytes]) -> Iterator[bytes]:
        for request in requests:
            yield self._link.pass_on(CALL, time.perf_counter(), request)

    def _led_through_here(self, reply: bytes) -> bytes:
        """The reply to Open with a place of this proxy's in it."""
        place = expert_pb2.OpenReply.FromString(reply)
        place.DiscardUnknownFields()  # the checksum of the reply that it was
        target = self._target_host, place.port
        listener = socket.create_server((self._listen_host, 0))
        place.host, place.port, place.unix_name = self._listen_host, listener.getsockname()[1], NOT_HERE
        threading.Thread(target=_serve, args=(listener, target, self._link), daemon=True).start()
        return sealed(place.SerializeToString())


def _read_replies(call: Any, put: Callable[[Any], None]) -> None:
    """Moves a call's replies; after them its error, or None."""
    try:
        for reply in call:
            put(reply)
    except grpc.RpcError as error:
        put(error)
    else:
        put(None)


def _serve(listener: socket.socket, target: tuple[str, int], link: Link) -> None:
    """Leads one connection to `target`."""
    with listener:
        caller, _ = listener.accept()
    worker = socket.create_connection(target)
    ends = caller, worker
    for end in ends:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for way, source, sink in ((CALL, caller, worker), (REPLY, worker, caller)):
        if link.holds(way, SESSION):
            pieces = Pieces(link, way, SESSION)
            _start(_receive, source, pieces.put, partial(pieces.put, b""))
            _start(_send, pieces, sink, ends)
        else:
            _start(_receive, source, sink.sendall, partial(_shut, ends))


def _start(run: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=run, args=arguments, daemon=True).start()


def _receive(source: socket.socket, put: Callable[[bytes], object], finish: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            put(data)
    finish()


def _send(pieces: Pieces, sink: socket.socket, ends: tuple[socket.socket, socket.socket]) -> None:
    with contextlib.suppress(OSError):
        while data := pieces.get():
            sink.sendall(data)
    _shut(ends)


def _shut(ends: tuple[socket.socket, socket.socket]) -> None:
    """Ends a connection on both sides."""
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def serve(listen: str, target: str, link: Link) -> grpc.Server:
    """Starts the proxy; addresses are host:port. Stop it."""
    server = grpc.server(ThreadPoolExecutor(CALLS), handlers=[Forwarder(listen, target, link)])
    server.add_insecure_port(listen)
    server.start()
    return server
