"""Bytes that no client library sends, over raw sockets: each gets a 4xx with an error body, and the gateway goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from support.gateway_harness import MODEL, Harness

GOOD = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
CHAT = "/v1/chat/completions"


def send_raw(router: Harness, data: bytes | Iterator[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Sends raw bytes; returns status, headers and body of the first response."""
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as connection:
        try:
            for part in (data,) if isinstance(data, bytes) else data:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # rejected before everything was sent; the response can still be read
        return read_response(connection)


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536) or pytest.fail("closed without a response")
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    return int(status.split()[1]), headers, body


def post(body: bytes, path: str = CHAT, content_type: str | None = "application/json", extra: str = "") -> bytes:
    kind = "" if content_type is None else f"content-type: {content_type}\r\n"
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{kind}{extra}content-length: {len(body)}\r\n\r\n".encode() + body


def assert_rejected(router: Harness, data: bytes | Iterator[bytes], status: int, code: str) -> str:
    got, headers, body = send_raw(router, data)
    assert got == status, body
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert len(headers["x-request-id"]) == 32
    assert len(error["message"]) < 300
    assert "Traceback" not in error["message"]
    assert "/" not in error["message"].replace("/v1/", "").replace("application/json", "")
    assert send_raw(router, post(GOOD))[0] == 200, "the gateway goes on"
    return str(error["message"])


BAD_JSON = {
    "nothing": b"",
    "text": b"hello",
    "cut": GOOD[:-2],
    "two_values": GOOD + GOOD,
    "array": b"[1]",
    "number": b"1",
    "null": b"null",
    "nan": b'{"temperature": NaN}',
    "infinity": b'{"temperature": -Infinity}',
    "too_large_float": b'{"temperature": 1e400}',
    "long_integer": b'{"seed": ' + b"1" * 4301 + b"}",
    "bom": b"\xef\xbb\xbf" + GOOD,
    "utf16": GOOD.decode().encode("utf-16"),
    "invalid_utf8": b'{"model": "\xff\xfe"}',
    "overlong_utf8": b'{"model": "\xc0\xaf"}',
    "surrogate_utf8": b'{"model": "\xed\xa0\x80"}',
    "lone_surrogate": b'{"model": "\\ud800"}',
    "duplicate_key": b'{"model": "a", "model": "b"}',
    "duplicate_key_inside": b'{"messages": [{"role": "user", "role": "system"}]}',
    "deep_arrays": b"[" * 10_000,
    "deep_objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep_but_whole": b'{"a":' * 65 + b"1" + b"}" * 65,
    "control_character": b'{"model": "a\nb"}',
    "comment": b'{"model": "a" /* no */}',
    "trailing_comma": b'{"model": "a",}',
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json(router: Harness, name: str) -> None:
    assert_rejected(router, post(BAD_JSON[name]), 400, "invalid_json")


def test_nul_characters_are_text(router: Harness) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a\x00b"}]}
    assert send_raw(router, post(json.dumps(body).encode()))[0] == 200


def test_five_megabytes_are_rejected(router: Harness) -> None:
    big = json.dumps({"model": MODEL, "prompt": "a" * (5 << 20)}).encode()
    assert_rejected(router, post(big, "/v1/completions"), 413, "request_too_large")


def test_a_declared_size_is_rejected_before_the_body_is_sent(router: Harness) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {1 << 40}\r\n\r\n"
    assert_rejected(router, head.encode(), 413, "request_too_large")


def test_an_endless_chunked_body_is_rejected_at_the_limit(router: Harness) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        yield f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
        yield b"transfer-encoding: chunked\r\n\r\n"
        for _ in range(80):
            sent += 64 << 10
            yield b"10000\r\n" + b"a" * (64 << 10) + b"\r\n"

    assert_rejected(router, chunks(), 413, "request_too_large")
    assert sent > 4 << 20


def test_a_hundred_thousand_one_byte_chunks_are_a_body(router: Harness) -> None:
    filler = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": "u" * 50_000})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in filler.encode()) + b"0\r\n\r\n"
    assert send_raw(router, head.encode() + body)[0] == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_other_media_types(router: Harness, kind: str | None) -> None:
    assert_rejected(router, post(GOOD, content_type=kind), 415, "unsupported_media_type")


def test_parameters_of_the_media_type_are_no_matter(router: Harness) -> None:
    assert send_raw(router, post(GOOD, content_type="Application/JSON; charset=utf-8"))[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v1/images", "//v1/models", "/v1/chat/completions/", "/..%2fetc%2fpasswd", "/v1/models;x", "/redoc"],
)
def test_unknown_routes(router: Harness, path: str) -> None:
    assert_rejected(router, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("DELETE", "/v1/models"), ("PUT", "/tokenize")])
def test_other_methods(router: Harness, method: str, path: str) -> None:
    assert_rejected(router, f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), 405, "method_not_allowed")


def test_too_many_headers(router: Harness) -> None:
    many = "".join(f"x-{i}: a\r\n" for i in range(101))
    assert_rejected(router, f"GET /health HTTP/1.1\r\nhost: x\r\n{many}\r\n".encode(), 431, "headers_too_large")
    long = f"x-long: {'a' * 17_000}\r\n"
    assert_rejected(router, f"GET /health HTTP/1.1\r\nhost: x\r\n{long}\r\n".encode(), 431, "headers_too_large")


@pytest.mark.parametrize(
    "data", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"]
)
def test_bytes_that_are_not_http_get_400(router: Harness, data: bytes) -> None:
    assert send_raw(router, data)[0] == 400
    assert send_raw(router, post(GOOD))[0] == 200


def test_a_long_value_is_never_echoed(router: Harness) -> None:
    value = "zebra" * 1000
    body = json.dumps({"model": MODEL, "messages": [{"role": value, "content": value}], "temperature": value}).encode()
    message = assert_rejected(router, post(body), 400, "invalid_type")
    assert "zebra" not in message
    keyed = json.dumps({"model": MODEL, "prompt": "a", "logit_bias": {value: "x"}}).encode()
    assert "zebra" not in assert_rejected(router, post(keyed, "/v1/completions"), 400, "invalid_type")


def test_a_megabyte_of_one_character_does_not_stop_the_others(router: Harness) -> None:
    body = json.dumps({"model": MODEL, "prompt": "a" * (1 << 20)}).encode()
    message = assert_rejected(router, post(body, "/v1/completions"), 400, "context_length_exceeded")
    assert "512 tokens, but at least" in message
    chat = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "a" * (1 << 21)}]}).encode()
    assert_rejected(router, post(chat), 400, "context_length_exceeded")
    barely = json.dumps({"model": MODEL, "prompt": "a" * 600}).encode()
    assert "601 were requested" in assert_rejected(
        router, post(barely, "/v1/completions"), 400, "context_length_exceeded"
    )
