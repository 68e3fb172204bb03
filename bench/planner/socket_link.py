"""What a socket between two processes does: round trip, bytes per second one way, and CPU of a message.

Between processes of this machine, or two machines of a cluster: `python -m bench.planner.socket_link --listen PORT` on
one, and `--peer HOST:PORT` on the other, which prints a link for a profile.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass

from bench.arguments import number
from bench.processes import PATH, REPO

SMALL, LARGE, ROUND_TRIPS, LARGE_ONES = 64, 1 << 22, 3000, 40
WAIT_S = 20.0
ECHO, SINK = b"e", b"s"  # what the other end does with what comes


@dataclass(frozen=True, slots=True)
class SocketLink:
    """Seconds of half a round trip, bytes per second one way, CPU seconds of sending and receiving one message."""

    latency_s: float
    bytes_s: float
    message_s: float


def measure(round_trips: int = ROUND_TRIPS, large_ones: int = LARGE_ONES) -> SocketLink:
    """Between two processes of this machine."""
    command = [sys.executable, "-m", "bench.planner.socket_link", "--listen", "0", "--host", "127.0.0.1"]
    env = os.environ | {"PYTHONPATH": PATH}
    child = subprocess.Popen(command, env=env, cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        port = int(child.stdout.readline().split()[-1])
        return measure_to(("127.0.0.1", port), round_trips, large_ones)
    finally:
        child.terminate()
        child.wait(20)


def measure_to(peer: tuple[str, int], round_trips: int = ROUND_TRIPS, large_ones: int = LARGE_ONES) -> SocketLink:
    """To a process that listens there. Raises OSError when nobody does."""
    with closing(_connected(peer)) as there:
        there.sendall(ECHO)
        _exchange(there, round_trips // 10 + 1)
        cpu, wall = time.process_time(), time.perf_counter()
        _exchange(there, round_trips)
        latency_s = (time.perf_counter() - wall) / round_trips / 2
        message_s = (time.process_time() - cpu) / round_trips
    with closing(_connected(peer)) as there:
        there.sendall(SINK)
        _stream(there, 1)
        wall = time.perf_counter()
        _stream(there, large_ones)
        bytes_s = LARGE * large_ones / max(1e-9, time.perf_counter() - wall - 2 * latency_s)
    return SocketLink(latency_s, bytes_s, message_s)


def serve(host: str, port: int) -> None:
    """Answers one who measures after the other, for ever. Raises OSError where it cannot listen."""
    with socket.create_server((host, port)) as server:
        print(f"listening on port {server.getsockname()[1]}", flush=True)
        while True:
            peer, _ = server.accept()
            with closing(peer):
                _answer(peer)


def _answer(peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        kind, came = peer.recv(1), 0
        while data := peer.recv(1 << 20):
            if kind == ECHO:
                peer.sendall(data)
                continue
            came += len(data)
            while came >= LARGE:
                peer.sendall(b".")
                came -= LARGE
    except OSError:
        return


def _connected(peer: tuple[str, int]) -> socket.socket:
    there = socket.create_connection(peer, timeout=WAIT_S)
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return there


def _exchange(there: socket.socket, times: int) -> None:
    """Sends a small message so many times, and waits until each has come back."""
    part = b"x" * SMALL
    for _ in range(times):
        there.sendall(part)
        _take(there, SMALL)


def _stream(there: socket.socket, times: int) -> None:
    """Sends so many large messages without a pause, and waits until the other end has said of each that it came."""
    part = b"x" * LARGE
    for _ in range(times):
        there.sendall(part)
    _take(there, times)


def _take(there: socket.socket, count: int) -> None:
    while count:
        data = there.recv(count)
        if not data:
            raise ConnectionError("the other end has closed the connection")
        count -= len(data)


def link_lines(name: str, found: SocketLink, where: str) -> list[str]:
    """A link of a profile, in TOML."""
    source = f"measured here: a socket {where}"
    return [
        f"[links.{name}]",
        f"gb_s = {found.bytes_s / 1e9:.4g}",
        f"latency_us = {1e6 * found.latency_s:.4g}",
        f"message_us = {1e6 * found.message_s:.4g}",
        f'sources = {{ gb_s = "{source}, one way", latency_us = "{source}, half a round trip", '
        f'message_us = "{source}, CPU of one end" }}',
    ]


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no HOST:PORT")
    return host.strip("[]"), int(port)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.planner.socket_link", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--listen", type=number(0, 65535), metavar="PORT", help="answer those who measure")
    which.add_argument("--peer", type=_address, metavar="HOST:PORT", help="measure the link to who listens there")
    parser.add_argument("--host", default="0.0.0.0", help="with --listen: address to listen on")
    parser.add_argument("--name", default="measured", help="with --peer: what the link is called")
    given = parser.parse_args()
    try:
        if given.listen is not None:
            serve(given.host, given.listen)
        found = measure_to(given.peer)
    except OSError as error:
        asked = f"--listen {given.listen}" if given.peer is None else f"--peer {given.peer[0]}:{given.peer[1]}"
        parser.error(f"{asked}: {error}")
    print("\n".join(link_lines(given.name, found, f"to {given.peer[0]}")))


if __name__ == "__main__":
    main()
