"""Clients of the Responses and Messages APIs that leave: the worker's call is cancelled, and nothing is left open."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_harness import MODEL, Harness

HI = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": MODEL, "input": HI},
    "/v1/messages": {"model": MODEL, "max_tokens": 400, "messages": HI},
}


@pytest.fixture
def router(assets_path: Path) -> Iterator[Harness]:
    """A router whose worker does not finish an answer within a test."""
    with Harness(assets_path, FakeAttention(answers_with([70] * 400, pause=0.1))) as harness:
        yield harness


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_cancels_the_workers_call(router: Harness, path: str, stream: bool) -> None:
    fake = router.fakes[0]
    body = json.dumps(BODIES[path] | {"stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", router.servers.http_port)) as connection:
            connection.sendall(head.encode() + body)
            assert until(lambda: fake.running == 1)
            if stream:
                data = b""
                while b"event: " not in data:  # the head may come by itself
                    got = connection.recv(65536)
                    assert got, data
                    data += got
        assert until(lambda: fake.running == 0)
    assert until(lambda: not router.serving.open_streams)
    assert fake.cancelled == 3
    assert not +router.serving.attention_workers.open_on
