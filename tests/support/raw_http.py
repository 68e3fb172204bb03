"""HTTP requests as bytes, and their answers read without a client library."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Self

from support.gateway_harness import Harness


def post(
    path: str, body: bytes, *, version: str = "1.1", extra: str = "", chunked: bool = False, each: int = 0
) -> bytes:
    """A POST of JSON. `extra`: more header lines, each with its line end. `each`: bytes of a chunk."""
    head = f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\n{extra}"
    if chunked or each:
        size = each or len(body) // 2 + 1
        pieces = (body[begin : begin + size] for begin in range(0, len(body), size))
        parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in pieces)
        return f"{head}transfer-encoding: chunked\r\n\r\n".encode() + parts + b"0\r\n\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Answer:
    """One answer: its body without chunks, and all bytes that were read for it."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def error(self) -> dict[str, Any]:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)

    @classmethod
    def read(cls, connection: socket.socket) -> Self:
        """Reads one answer, whose length is in its headers or whose end is a chunk or the connection's."""
        file = connection.makefile("rb")
        raw = status = file.readline()
        while status.split()[1:2] == [b"100"]:
            raw += file.readline()
            status = file.readline()
            raw += status
        headers: dict[str, str] = {}
        while line := file.readline().rstrip():
            raw += line + b"\r\n"
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        assert status.startswith(b"HTTP/1.1 "), status or "closed without an answer"
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(file.readline(), 16):
                body += file.read(size)
                assert file.read(2) == b"\r\n"
            assert file.readline() == b"\r\n"
        elif "content-length" not in headers:
            body = b"" if int(status.split()[1]) == 204 else file.read()
        else:
            body = file.read(int(headers["content-length"]))
        return cls(int(status.split()[1]), headers, body, raw)


def ask_from(port: int, source: str, body: bytes, path: str = "/v1/chat/completions") -> Answer:
    """Posts a body from an address of this machine, over a connection of its own; returns the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0)) as connection:
        connection.sendall(post(path, body))
        return Answer.read(connection)


def exchange(router: Harness, data: bytes, *, half_close: bool = False, admin: bool = False) -> Answer:
    """Sends bytes over a connection of their own, which is then half closed or not; returns the answer.

    `admin`: to the admin port.
    """
    port = router.servers.admin_port if admin else router.servers.http_port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        if data.startswith(b"HEAD"):
            head = read_all(connection)
            lines = head.decode().split("\r\n")
            assert head.endswith(b"\r\n\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            return Answer(int(lines[0].split()[1]), headers, head.partition(b"\r\n\r\n")[2], head)
        return Answer.read(connection)


def read_all(connection: socket.socket) -> bytes:
    """Reads until the connection's end."""
    received = b""
    while more := connection.recv(65536):
        received += more
    return received
