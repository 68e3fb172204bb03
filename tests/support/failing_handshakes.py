"""A server with TLS in a process of its own, and outsiders that try it: `failing_handshakes.py GOOD OTHER TRIES`.

Prints the metric of failed handshakes, writes to stderr in several ways, and ends as C++ code that gives up does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from services.process.grpc_server import ThreadedGrpcServer
from services.process.telemetry import configure_logging
from services.security.guard import Guard
from services.security.identity import EXPERT
from services.security.tls import Tls, TlsFiles
from services.transport.handshakes import watch_failed_handshakes

LOG_S = 1.0
METRIC = "caracal_tls_failed_handshakes_total"


def files(folder: Path) -> TlsFiles:
    return TlsFiles(folder / "expert.crt", folder / "expert.key", folder / "ca.crt")


def handshake(port: int, shown: TlsFiles | None) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    with socket.create_connection(("127.0.0.1", port), 5) as connected, context.wrap_socket(connected) as wrapped:
        wrapped.recv(1)  # of TLS 1.3 the client hears only now that it was rejected


def http(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as connected:
        connected.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connected.recv(1)


def values(registry: CollectorRegistry) -> dict[str, float]:
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {f'{one.name}{{reason="{one.labels["reason"]}"}}': one.value for one in samples if one.name == METRIC}


def main() -> None:
    good, other, tries = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    configure_logging("expert")
    registry = CollectorRegistry()
    watch_failed_handshakes(registry, LOG_S)
    guard = Guard(tls=Tls(files(good), "caracal", EXPERT))

    def nothing(_: grpc.Server) -> None:
        """A server with health and reflection alone."""

    server = ThreadedGrpcServer("caracal.Expert", nothing, ThreadPoolExecutor(2), 2, guard=guard)
    port = server.start("127.0.0.1", 0)
    ways: list[Callable[[], None]] = [
        partial(handshake, port, None),
        partial(handshake, port, files(other)),
        partial(http, port),
    ]
    for way in ways * tries:
        with contextlib.suppress(OSError):  # as ssl.SSLError is one
            way()
    deadline = time.monotonic() + 10
    while sum(values(registry).values()) < 3 * tries and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1.5 * LOG_S)
    print(json.dumps(values(registry)), flush=True)
    libc = ctypes.CDLL(None)
    libc.fputs(b"written by C\n", ctypes.c_void_p.in_dll(libc, "stderr"))
    print("written by Python", file=sys.stderr, flush=True)
    ctypes.CDLL("libstdc++.so.6")._ZSt9terminatev()


if __name__ == "__main__":
    main()
