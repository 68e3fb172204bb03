"""What a socket between two processes of this machine does: round trip, bytes per second, and CPU of a message."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass

SMALL, LARGE, ROUND_TRIPS, LARGE_ONES = 64, 1 << 22, 3000, 40
ECHO = """
import socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := peer.recv(1 << 20):
    peer.sendall(data)
"""


@dataclass(frozen=True, slots=True)
class SocketLink:
    """Seconds of half a round trip, bytes per second each way, CPU seconds of sending and receiving one message."""

    latency_s: float
    bytes_s: float
    message_s: float


def measure(round_trips: int = ROUND_TRIPS, large_ones: int = LARGE_ONES) -> SocketLink:
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = subprocess.Popen([sys.executable, "-c", ECHO, str(server.getsockname()[1])])
        try:
            server.settimeout(20)
            peer, _ = server.accept()
            with closing(peer):
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _exchange(peer, SMALL, round_trips // 10 + 1)
                cpu, wall = time.process_time(), time.perf_counter()
                _exchange(peer, SMALL, round_trips)
                latency, message = (
                    (time.perf_counter() - wall) / round_trips / 2,
                    (time.process_time() - cpu) / round_trips,
                )
                wall = time.perf_counter()
                _exchange(peer, LARGE, large_ones)
                rate = 2 * LARGE * large_ones / (time.perf_counter() - wall)
        finally:
            child.terminate()
            child.wait(20)
    return SocketLink(latency, rate, message)


def _exchange(peer: socket.socket, size: int, times: int) -> None:
    """Sends so many bytes, in parts that fit the buffers, and waits until each part has come back."""
    part = b"x" * min(size, 1 << 16)
    for _ in range(times):
        for _ in range(size // len(part)):
            peer.sendall(part)
            left = len(part)
            while left:
                left -= len(peer.recv(left))
