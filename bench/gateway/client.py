"""Reads many streams: `python -m bench.gateway.client FILE URL STREAMS SECONDS load|probe`.

One thread over epoll, so that it costs less than what it measures. A probe times its tokens, and comes before others on
its core where it may; a load only counts. Prints `ready`, waits for a line while it reads, and prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from bench.gateway.sent_at import DIGITS, MODEL, send_times
from services.process.open_files import raise_open_files

MARK = b'"content":" '


class Streams:
    """Open chat streams of one server."""

    def __init__(self, host: str, port: int, times: NDArray[np.float64], *, probe: bool) -> None:
        self._address, self._times, self._probe = (host, port), times, probe
        self._epoll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self.latencies: list[float] = []
        self.events = self.ended = 0

    def add(self, number: int) -> None:
        body = json.dumps(
            {"model": MODEL, "messages": [{"role": "user", "content": f"stream {number}"}], "stream": True}
        ).encode()
        connected = socket.create_connection(self._address)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        connected.sendall(head.encode() + body)
        connected.setblocking(False)
        self._open[connected.fileno()] = connected
        self._epoll.register(connected.fileno(), select.EPOLLIN)

    def read(self, until: float, *, keep: bool) -> bool:
        """Reads until then, or until standard input says something, and returns whether it did. `keep`: counts."""
        while (left := until - time.monotonic()) > 0:
            for descriptor, _ in self._epoll.poll(left):
                if descriptor == sys.stdin.fileno():
                    sys.stdin.readline()
                    return True
                data = self._open[descriptor].recv(1 << 16)
                if not data:
                    self._close(descriptor)
                elif keep:
                    self.events += data.count(MARK)
                    if self._probe:
                        self._note(data)
        return False

    def wait(self) -> None:
        """Reads until standard input says something."""
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        while not self.read(time.monotonic() + 60, keep=False):
            pass
        self._epoll.unregister(sys.stdin.fileno())

    def _note(self, data: bytes) -> None:
        now, at = time.monotonic(), data.find(MARK)
        while at >= 0:
            begin = at + len(MARK)
            self.latencies.append(now - self._times[int(data[begin : begin + DIGITS])])
            at = data.find(MARK, begin)

    def _close(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._open.pop(descriptor).close()
        self.ended += 1

    def close(self) -> None:
        for descriptor in list(self._open):
            self._close(descriptor)


def main() -> None:
    raise_open_files()
    name, url, count, seconds, role = sys.argv[1:]
    if role == "probe":
        with contextlib.suppress(PermissionError):
            os.nice(-10)
    times, place = send_times(Path(name)), urlsplit(url)
    streams = Streams(place.hostname or "", place.port or 0, times, probe=role == "probe")
    for number in range(int(count)):
        streams.add(number)
        if number % 16 == 15:
            streams.read(time.monotonic() + 0.02, keep=False)
    print("ready", flush=True)
    streams.wait()
    began = time.monotonic()
    streams.read(began + float(seconds), keep=True)
    found = sorted(streams.latencies)
    result = {
        "seconds": time.monotonic() - began,
        "events": streams.events,
        "ended": streams.ended,
        "added_ms": {
            f"p{q:g}": round(found[min(len(found) - 1, int(len(found) * q / 100))] * 1e3, 3) for q in (50, 90, 99, 99.9)
        }
        if found
        else {},
    }
    print(json.dumps(result), flush=True)
    streams.close()


if __name__ == "__main__":
    main()
