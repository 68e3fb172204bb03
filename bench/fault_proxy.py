"""A proxy before an expert worker whose link can fail: `python -m bench.fault_proxy LISTEN TARGET`.

It reads what the link is to do from standard input, a line for each change, and answers each with a line: `pass`,
`blackholed` (nothing gets through, either way), `one-way` (calls get through, replies do not), `late SECONDS` (replies
are late by so much); `held` answers how many pieces it has kept back. What is kept back gets through once the link
passes again, as over TCP. A native session that is opened through it leads through it too.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from bench.delay_proxy import CALLS, CHUNK, NO_DEADLINE_S, OPEN, led_through, read_replies, shut

CALL, REPLY = "call", "reply"
KINDS = ("pass", "blackholed", "one-way", "late")


class LinkState:
    """What the link does now. Any thread may ask and change it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kind, self._late_s = "pass", 0.0
        self.held = 0

    def become(self, kind: str, late_s: float = 0.0) -> None:
        with self._changed:
            self._kind, self._late_s = kind, late_s
            self._changed.notify_all()

    def pass_on(self, way: str, arrived_s: float) -> None:
        """Returns when a piece that arrived then may go on its way."""
        with self._changed:
            held = False
            while (left_s := self._left_s(way, arrived_s)) > 0:
                self.held += not held
                held = True
                self._changed.wait(left_s)

    def _left_s(self, way: str, arrived_s: float) -> float:
        if self._kind == "blackholed" or (self._kind == "one-way" and way == REPLY):
            return 60.0  # or until it changes
        if self._kind == "late" and way == REPLY:
            return arrived_s + self._late_s - time.perf_counter()
        return 0.0


class Pieces:
    """What goes one way over the link: put in by one thread, taken out by another as the link lets it."""

    def __init__(self, state: LinkState, way: str) -> None:
        self._state, self._way = state, way
        self._queue: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()

    def put(self, piece: Any) -> None:
        self._queue.put((time.perf_counter(), piece))

    def get(self) -> Any:
        arrived_s, piece = self._queue.get()
        self._state.pass_on(self._way, arrived_s)
        return piece


class Forwarder(grpc.GenericRpcHandler):
    """Passes calls of any method on as bytes."""

    def __init__(self, listen: str, target: str, state: LinkState) -> None:
        self._listen_host, self._target_host = listen.rsplit(":", 1)[0], target.rsplit(":", 1)[0]
        self._state = state
        self._channel = grpc.insecure_channel(target)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method

        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from self._forward(method, requests, context)

        return grpc.stream_stream_rpc_method_handler(forward)

    def _forward(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        start: Any = self._channel.stream_stream(method)
        left_s = context.time_remaining()
        call = start(self._passed(requests), timeout=left_s if left_s < NO_DEADLINE_S else None)
        context.add_callback(call.cancel)
        replies = Pieces(self._state, REPLY)
        threading.Thread(target=read_replies, args=(call, replies.put), daemon=True).start()
        while isinstance(reply := replies.get(), bytes):
            yield self._led_through_here(reply) if method == OPEN else reply
        if isinstance(reply, grpc.Call):
            context.abort(reply.code(), reply.details())

    def _passed(self, requests: Iterator[bytes]) -> Iterator[bytes]:
        for request in requests:
            self._state.pass_on(CALL, time.perf_counter())
            yield request

    def _led_through_here(self, reply: bytes) -> bytes:
        changed, listener, target = led_through(reply, self._listen_host, self._target_host)
        threading.Thread(target=_serve, args=(listener, target, self._state), daemon=True).start()
        return changed


def _serve(listener: socket.socket, target: tuple[str, int], state: LinkState) -> None:
    """Leads one connection to `target`."""
    with listener:
        caller, _ = listener.accept()
    worker = socket.create_connection(target)
    ends = caller, worker
    for end in ends:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for way, source, sink in ((CALL, caller, worker), (REPLY, worker, caller)):
        pieces = Pieces(state, way)
        threading.Thread(target=_receive, args=(source, pieces), daemon=True).start()
        threading.Thread(target=_send, args=(pieces, sink, ends), daemon=True).start()


def _receive(source: socket.socket, pieces: Pieces) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            pieces.put(data)
    pieces.put(b"")


def _send(pieces: Pieces, sink: socket.socket, ends: tuple[socket.socket, socket.socket]) -> None:
    with contextlib.suppress(OSError):
        while data := pieces.get():
            sink.sendall(data)
    shut(ends)


def serve(listen: str, target: str, state: LinkState) -> grpc.Server:
    """Starts the proxy; addresses are host:port. Stop it."""
    server = grpc.server(ThreadPoolExecutor(CALLS), handlers=[Forwarder(listen, target, state)])
    server.add_insecure_port(listen)
    server.start()
    return server


def main() -> None:
    state = LinkState()
    server = serve(sys.argv[1], sys.argv[2], state)
    for line in sys.stdin:
        kind, *seconds = line.split()
        if kind == "held":
            print(state.held, flush=True)
            continue
        if kind not in KINDS:
            sys.exit(f"{kind} is none of {', '.join(KINDS)}")
        state.become(kind, float(seconds[0]) if seconds else 0.0)
        print(kind, flush=True)
    server.stop(None)


if __name__ == "__main__":
    main()
