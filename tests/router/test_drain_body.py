"""Large bodies over real sockets: the client can read the error response, because no reset discards it."""

from __future__ import annotations

import http.client
import json
import socket
import time

import pytest
from support.gateway_harness import Harness

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
BIG = b"a" * (30 << 20)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CHAT, JSON, 413),
        (CHAT, JSON | {"Connection": "close"}, 413),
        (CHAT, {"Content-Type": "text/plain", "Connection": "close"}, 415),
        ("/nowhere", JSON | {"Connection": "close"}, 404),
        (CHAT, JSON | {"Connection": "close", "x-long": "a" * 17_000}, 431),
    ],
)
def test_thirty_megabytes_are_sent_and_the_error_is_read(
    router: Harness, path: str, headers: dict[str, str], status: int
) -> None:
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", router.servers.http_port, timeout=20)
        connection.request("POST", path, BIG, headers)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert json.loads(answer.read())["error"]["message"]
        connection.close()


def test_chunks_beyond_the_limit_are_rejected_and_the_error_is_read(router: Harness) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", router.servers.http_port, timeout=20)
    chunks = (BIG[: 1 << 20] for _ in range(30))
    connection.request("POST", CHAT, chunks, JSON | {"Connection": "close"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_the_error_comes_at_once_and_an_idle_client_is_disconnected(router: Harness) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {1 << 30}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as client:
        began = time.monotonic()
        client.sendall(head.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 413")
        assert time.monotonic() - began < 2, "the client had to wait for the answer"
        while client.recv(65536):
            pass
        assert 4 < time.monotonic() - began < 15


def test_a_client_that_never_stops_sending_is_disconnected(router: Harness) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {1 << 40}\r\n\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as client:
        client.sendall(head.encode())
        try:
            while sent < 1 << 30:
                client.sendall(BIG[: 1 << 20])
                sent += 1 << 20
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 128 << 20


def test_a_rejected_request_whose_body_was_read_keeps_its_connection(router: Harness) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", router.servers.http_port, timeout=20)
    for _ in range(2):
        connection.request("POST", CHAT, b"{", JSON)
        answer = connection.getresponse()
        assert (answer.status, answer.headers.get("connection")) == (400, None)
        answer.read()
        assert connection.sock is not None
    connection.close()
