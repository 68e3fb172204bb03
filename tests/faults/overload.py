"""More requests at once than a router takes on, from one client."""

from __future__ import annotations

import json
import socket
from typing import Any

# Long answers, so that those that are let in stay there.
BODY: dict[str, Any] = {"prompt": "the cat", "max_tokens": 400, "ignore_eos": True, "stream": True}
STATUS_LINE = len("HTTP/1.1 429")
REFUSED = {b"429", b"503"}


class Burst:
    """So many requests over HTTP, each on a connection of its own, until it is closed. `address`: a router's."""

    def __init__(self, address: tuple[str, int], requests: int) -> None:
        body = json.dumps(BODY).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: router\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        self._connections = [socket.create_connection(address, 10) for _ in range(requests)]
        for connection in self._connections:
            connection.sendall(head.encode() + body)
            connection.setblocking(False)

    def refused(self) -> int:
        """How many have been answered with 429 or 503 so far."""
        return sum(self._status(connection) in REFUSED for connection in self._connections)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _status(self, connection: socket.socket) -> bytes:
        try:
            return connection.recv(STATUS_LINE, socket.MSG_PEEK).partition(b" ")[2]
        except OSError:
            return b""
