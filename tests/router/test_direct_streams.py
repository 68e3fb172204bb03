"""The short way of a stream's tokens, from the worker's message to the connection: nothing is lost or out of order."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

import pytest
from support.fake_attention import answers_with
from support.gateway_harness import MODEL, Harness


def ask(router: Harness, route: str, version: str = "1.1", **fields: Any) -> socket.socket:
    """Sends a streaming request; the socket takes little, so that a client that does not read is noticed."""
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in route else {"prompt": "hi"}
    body = json.dumps({"model": MODEL, "stream": True, "max_tokens": 400, **prompt, **fields}).encode()
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.connect(("127.0.0.1", router.servers.http_port))
    head = (
        f"POST {route} HTTP/{version}\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    )
    connected.sendall(head.encode() + b"connection: close\r\n\r\n" + body)
    connected.settimeout(30)
    return connected


def read_all(connected: socket.socket, *, pause: float = 0.0, part: int = 1 << 16) -> bytes:
    data = b""
    with connected:
        while got := connected.recv(part):
            data += got
            time.sleep(pause)
    return data


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return body
    parts = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        parts, body = parts + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return parts


def events_of(answer: bytes) -> list[Any]:
    return [json.loads(event) for event in re.findall(rb"data: (\{.*\})\n\n", body_of(answer))]


def text_of(answer: bytes) -> str:
    choices = [choice for event in events_of(answer) for choice in event["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("fields", [{}, {"stop": ["never"]}, {"return_token_ids": True}], ids=["plain", "stop", "ids"])
def test_every_way_gives_the_same_text(router: Harness, route: str, version: str, fields: dict[str, Any]) -> None:
    text = "the cat 猫 sat on the mat 🐈 <longcat_think> hello " * 6
    router.fakes[0].script = answers_with(router.ids(text), finish="stop")
    answer = read_all(ask(router, route, version, **fields))
    shown = text_of(answer)
    if "chat" in route:
        assert shown.startswith("the cat 猫 sat on the mat 🐈")
    else:
        assert shown == text
    assert answer.count(b"data: [DONE]") == 1
    assert body_of(answer).endswith(b"data: [DONE]\n\n")


def test_a_client_that_stops_reading_gets_everything_later(router: Harness) -> None:
    """Eight choices with log-probabilities are more than the sockets hold."""
    ids = router.ids("hello world ") * 100
    router.fakes[0].script = answers_with(ids, finish="stop")
    connected = ask(router, "/v1/completions", n=8, logprobs=20)
    time.sleep(1)  # until the sockets are full, which nothing shows
    answer = read_all(connected)
    assert len(answer) > 2 << 20
    choices = [event["choices"][0] for event in events_of(answer)]
    for index in range(8):
        text = "".join(choice["text"] for choice in choices if choice["index"] == index)
        assert text == router.assets.tokenizer.decode(ids[:400])


def test_a_client_that_leaves_ends_its_sequence(router: Harness) -> None:
    router.fakes[0].script = answers_with(router.ids("hello world ") * 100, pause=0.01, finish="stop")
    before = router.fakes[0].cancelled
    connected = ask(router, "/v1/chat/completions")
    assert connected.recv(64)
    connected.close()
    deadline = time.monotonic() + 10
    while router.fakes[0].cancelled == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_streams_beside_each_other_keep_their_own_text(router: Harness) -> None:
    router.fakes[0].script = answers_with(router.ids("the cat sat on the mat " * 8), pause=0.001, finish="stop")
    sockets = [ask(router, "/v1/completions") for _ in range(12)]
    assert {text_of(read_all(connected)) for connected in sockets} == {"the cat sat on the mat " * 8}
