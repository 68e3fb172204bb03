"""What clients of all kinds send to the gateway's HTTP server, byte by byte, over real sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.raw_http import Answer, exchange, post, read_all

UPGRADE = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
COMPLETIONS = "/v1/completions"


def body(**more: object) -> bytes:
    return json.dumps({"model": MODEL, "prompt": "a", **more}).encode()


def get(path: str, method: str = "GET", extra: str = "", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nhost: x\r\nconnection: close\r\n{extra}\r\n".encode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_http_2_is_ignored_and_the_request_is_served(router: Harness, stream: bool, chunked: bool) -> None:
    data = post(COMPLETIONS, body(stream=stream), extra=UPGRADE, chunked=chunked)
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as connection:
        for _ in range(2):  # the connection is kept, too
            connection.sendall(data)
            answer = Answer.read(connection)
            assert answer.status == 200
            assert "upgrade" not in answer.headers
            if stream:
                assert answer.text.endswith("data: [DONE]\n\n")
            else:
                assert json.loads(answer.body)["choices"][0]["text"] == "hello world"


@pytest.mark.parametrize("extra", ["", "connection: keep-alive\r\n"])
def test_http_1_0_gets_streams_without_chunks(router: Harness, extra: str) -> None:
    answer = exchange(router, post(COMPLETIONS, body(stream=True), version="1.0", extra=extra))
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"
    assert answer.text.startswith("data: {")
    assert answer.text.endswith("data: [DONE]\n\n")
    whole = exchange(router, post(COMPLETIONS, body(), version="1.0", extra=extra))
    assert len(whole.body) == int(whole.headers["content-length"])


GETS = ("/health", "/ready", "/ping", "/version", "/load", "/cluster", "/v1/models", f"/v1/models/{MODEL}", "/metrics")


@pytest.mark.parametrize("path", [*GETS, "/openapi.json", "/docs", "/docs/assets/swagger-ui.css"])
def test_head_is_get_without_a_body(router: Harness, path: str) -> None:
    whole, head = (exchange(router, get(path, method), admin=True) for method in ("GET", "HEAD"))
    assert head.body == b""
    assert head.status == whole.status
    if path != "/metrics":  # which counts these requests
        assert head.headers["content-length"] == str(len(whole.body))
    assert head.headers.get("content-type") == whole.headers.get("content-type")


def test_head_of_a_route_without_get_is_405(router: Harness) -> None:
    assert exchange(router, get(COMPLETIONS, "HEAD")).status == 405


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *((path, "GET, HEAD, OPTIONS") for path in (*GETS, "/docs", "/docs/assets/swagger-ui.css")),
        *((path, "OPTIONS, POST") for path in (COMPLETIONS, "/v1/chat/completions", "/tokenize", "/detokenize")),
        ("*", "DELETE, GET, HEAD, OPTIONS, POST"),
    ],
)
def test_options_names_the_methods_and_405_does_too(router: Harness, path: str, allowed: str) -> None:
    answer = exchange(router, get(path, "OPTIONS"), admin=True)
    assert (answer.status, answer.body, answer.headers["allow"]) == (204, b"", allowed)
    if path != "*" and "assets" not in path:
        for method in ("PATCH", "TRACE", "BREW"):
            wrong = exchange(router, get(path, method), admin=True)
            assert (wrong.status, wrong.headers["allow"]) == (405, allowed)
            assert wrong.error["code"] == "method_not_allowed"


def test_options_of_no_route_is_404(router: Harness) -> None:
    assert exchange(router, get("/nowhere", "OPTIONS")).error["code"] == "not_found"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_half_closed_client_gets_its_whole_answer(router: Harness, stream: bool, version: str) -> None:
    fake = router.fakes[0]
    fake.script = answers_with(router.ids("hello world"), pause=0.1, eos=EOS)
    answer = exchange(router, post(COMPLETIONS, body(stream=stream), version=version), half_close=True)
    assert answer.status == 200
    assert ("[DONE]" if stream else "hello world") in answer.text
    assert fake.cancelled == 0


def test_half_closed_clients_of_quick_routes_and_of_two_requests(router: Harness) -> None:
    assert exchange(router, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", half_close=True).status == 200
    both = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /version HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as connection:
        connection.sendall(both)
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_an_answer_that_was_begun_for_a_half_closed_client_is_still_an_error(router: Harness) -> None:
    answer = exchange(router, post(COMPLETIONS, body(model="other")), half_close=True)
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


@pytest.fixture
def endless(assets_path: Path) -> Iterator[Harness]:
    with Harness(assets_path, FakeAttention(answers_with([70] * 400, pause=0.02))) as harness:
        yield harness


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_noticed_whatever_it_speaks(endless: Harness, stream: bool, version: str) -> None:
    fake = endless.fakes[0]
    with socket.create_connection(("127.0.0.1", endless.servers.http_port)) as connection:
        connection.sendall(post(COMPLETIONS, body(stream=stream, max_tokens=400), version=version))
        wait_until(lambda: fake.running == 1)
    wait_until(lambda: fake.cancelled == 1)


@pytest.mark.parametrize("data", [post(COMPLETIONS, body())[:-5], post(COMPLETIONS, body(), chunked=True)[:-4], b"GET"])
def test_a_request_that_can_never_be_whole_is_an_error(router: Harness, data: bytes) -> None:
    answer = exchange(router, data, half_close=True)
    assert (answer.status, answer.error["code"]) == (400, "bad_request")
    assert "before the request was complete" in answer.error["message"]
    assert exchange(router, get("/health")).status == 200


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
START = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
NOT_HTTP: dict[str, tuple[bytes, int, str]] = {
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400, "bad_request"),
    "no_colon": (b"GET /health HTTP/1.1\r\nhost x\r\n\r\n", 400, "bad_request"),
    "no_host": (b"GET /health HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "two_hosts": (b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "bad_request"),
    "two_lengths": (f"{START}content-length: 5\r\ncontent-length: 6\r\n\r\n012345".encode(), 400, "bad_request"),
    "signed_length": (f"{START}content-length: +5\r\n\r\n01234".encode(), 400, "bad_request"),
    "length_and_chunks": (
        f"{START}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        400,
        "bad_request",
    ),
    "bad_chunk": (f"{START}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n".encode(), 400, "bad_request"),
    "other_coding": (f"{START}transfer-encoding: gzip, chunked\r\n\r\n".encode(), 501, "not_implemented"),
    "nul": (b"GET /health HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n", 400, "bad_request"),
    "space_in_path": (b"GET /hea lth HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
    "no_path": (b"GET health HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
    "connect": (b"CONNECT a:80 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
    "http_2": (PREFACE, 505, "http_version_not_supported"),
    "http_2_get": (get("/health", version="2.0"), 505, "http_version_not_supported"),
    "http_0_9": (get("/health", version="0.9"), 505, "http_version_not_supported"),
    "long_target": (b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * 20_000), 414, "uri_too_long"),
    "endless_target": (b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * 3_000_000), 431, "headers_too_large"),
    "endless_header": (b"GET / HTTP/1.1\r\nhost: x\r\nx: %s\r\n\r\n" % (b"a" * 3_000_000), 431, "headers_too_large"),
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_gets_an_error_of_our_form_and_never_a_reset(router: Harness, name: str) -> None:
    data, status, code = NOT_HTTP[name]
    answer = exchange(router, data, half_close=True)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, "invalid_request_error")
    assert len(answer.headers["x-request-id"]) == 32
    assert len(answer.body) == int(answer.headers["content-length"])


@pytest.mark.parametrize(
    "parts", [(PREFACE,), (PREFACE[:18], PREFACE[18:]), (get("/health", version="2.0"), get("/health"))]
)
def test_another_version_of_http_gets_exactly_one_answer(router: Harness, parts: tuple[bytes, ...]) -> None:
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        assert read_all(connection).count(b"HTTP/1.1 505 HTTP Version Not Supported\r\n") == 1


def test_what_follows_an_unreadable_request_is_dropped_within_limits(router: Harness) -> None:
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as connection:
        connection.sendall(b"\0\r\n\r\n")
        assert Answer.read(connection).status == 400
        assert connection.recv(1) == b"", "the answer is the end, while the client may still send"
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            connection.sendall(b"a" * (64 << 20))


def test_old_and_odd_forms_of_requests_are_served(router: Harness) -> None:
    assert exchange(router, b"\r\n\r\n" + get("/health")).status == 200
    assert exchange(router, get("http://x/health?a=b")).status == 200
    assert exchange(router, get("HTTP://x:80/v1/models")).status == 200
    with socket.create_connection(("127.0.0.1", router.servers.http_port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert Answer.read(connection).status == 200
        connection.sendall(b"\r\n")
        connection.sendall(get("/health"))
        assert Answer.read(connection).status == 200
    expecting = post(COMPLETIONS, body(), extra="expect: 100-continue\r\n")
    assert b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" in exchange(router, expecting, half_close=True).raw


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
