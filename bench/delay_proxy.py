"""A proxy before an expert worker that delays its replies: `python -m bench.delay_proxy LISTEN TARGET DELAY_S`.

It serves gRPC at LISTEN and passes everything on to TARGET. A native session that is opened through it leads through it
too. Each end has a thread of its own, since an event loop's timers are a millisecond coarse.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from caracal_proto import expert_pb2
from caracal_proto.sealing import sealed

CHUNK = 1 << 18
CALLS = 64  # at once
NO_DEADLINE_S = 1e6  # a call without a deadline says that some centuries are left, which a timeout cannot hold
OPEN, SESSION = "/caracal.Expert/Open", "/caracal.Expert/Session"
NOT_HERE = "not-here"  # no unix socket has this name


class Delayed:
    """A queue whose items come out `delay_s` after they went in."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._queue: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()

    def put(self, item: Any) -> None:
        self._queue.put((time.perf_counter() + self._delay_s, item))

    def get(self) -> Any:
        due, item = self._queue.get()
        if (early := due - time.perf_counter()) > 0:
            time.sleep(early)
        return item


class Forwarder(grpc.GenericRpcHandler):
    """Passes calls of any method on as bytes."""

    def __init__(self, listen: str, target: str, delay_s: float) -> None:
        self._listen_host, self._target_host = listen.rsplit(":", 1)[0], target.rsplit(":", 1)[0]
        self._delay_s = delay_s
        self._channel = grpc.insecure_channel(target)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method

        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from self._forward(method, requests, context)

        return grpc.stream_stream_rpc_method_handler(forward)

    def _forward(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        start: Any = self._channel.stream_stream(method)
        left_s = context.time_remaining()
        call = start(requests, timeout=left_s if left_s < NO_DEADLINE_S else None)
        context.add_callback(call.cancel)
        replies = Delayed(self._delay_s if method == SESSION else 0.0)
        threading.Thread(target=read_replies, args=(call, replies.put), daemon=True).start()
        while isinstance(reply := replies.get(), bytes):
            yield self._led_through_here(reply) if method == OPEN else reply
        if isinstance(reply, grpc.Call):
            context.abort(reply.code(), reply.details())

    def _led_through_here(self, reply: bytes) -> bytes:
        changed, listener, target = led_through(reply, self._listen_host, self._target_host)
        threading.Thread(target=_serve, args=(listener, target, self._delay_s), daemon=True).start()
        return changed


def led_through(reply: bytes, listen_host: str, target_host: str) -> tuple[bytes, socket.socket, tuple[str, int]]:
    """The reply to Open with a place of this proxy's in it, a socket that listens there, and where the worker is."""
    place = expert_pb2.OpenReply.FromString(reply)
    place.DiscardUnknownFields()  # the checksum of the reply that it was
    target = target_host, place.port
    listener = socket.create_server((listen_host, 0))
    place.host, place.port, place.unix_name = listen_host, listener.getsockname()[1], NOT_HERE
    return sealed(place.SerializeToString()), listener, target


def read_replies(call: Any, put: Callable[[Any], None]) -> None:
    """Moves a call's replies; after them its error, or None."""
    try:
        for reply in call:
            put(reply)
    except grpc.RpcError as error:
        put(error)
    else:
        put(None)


def _serve(listener: socket.socket, target: tuple[str, int], delay_s: float) -> None:
    """Leads one connection to `target`."""
    with listener:
        caller, _ = listener.accept()
    worker = socket.create_connection(target)
    ends = caller, worker
    for end in ends:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    replies = Delayed(delay_s)
    for pump in ((caller, worker.sendall, partial(shut, ends)), (worker, replies.put, partial(replies.put, b""))):
        threading.Thread(target=_pump, args=pump, daemon=True).start()
    with contextlib.suppress(OSError):
        while data := replies.get():
            caller.sendall(data)
    shut(ends)


def _pump(source: socket.socket, sink: Callable[[bytes], None], finish: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            sink(data)
    finish()


def shut(ends: tuple[socket.socket, socket.socket]) -> None:
    """Ends a connection on both sides."""
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def serve(listen: str, target: str, delay_s: float) -> grpc.Server:
    """Starts the proxy; addresses are host:port. Stop it."""
    server = grpc.server(ThreadPoolExecutor(CALLS), handlers=[Forwarder(listen, target, delay_s)])
    server.add_insecure_port(listen)
    server.start()
    return server


def main() -> None:
    serve(sys.argv[1], sys.argv[2], float(sys.argv[3])).wait_for_termination()


if __name__ == "__main__":
    main()
