"""Clients that disconnect at random moments: the worker's call is cancelled for each, and every sequence ends once."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_harness import MODEL, Harness

CLIENTS = 500


@pytest.fixture
def router(assets_path: Path) -> Iterator[Harness]:
    """A router whose worker does not finish an answer within a test."""
    with Harness(assets_path, FakeAttention(answers_with([70] * 400, pause=0.02))) as harness:
        yield harness


def request(stream: bool, n: int) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": MODEL, "messages": messages, "stream": stream, "n": n}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def send_and_disconnect(port: int, seed: int) -> None:
    """Sends a request or a part of one, waits a while or for a part of the answer, then closes with FIN or RST."""
    rng = random.Random(seed)
    stream = rng.random() < 0.7
    data = request(stream, n=rng.choice((1, 1, 1, 2)))
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data))]
        stream = False
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(data)
    if stream and rng.random() < 0.7:
        for _ in range(rng.randint(1, 6)):
            assert connection.recv(4096)
    else:
        time.sleep(rng.choice((0.0, 0.001, 0.01, 0.1)) * rng.random())
    if rng.random() < 0.5:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def value(router: Harness, name: str) -> float:
    return router.metrics.registry.get_sample_value(name, {"model_name": MODEL}) or 0.0


def test_five_hundred_disconnects_reach_the_worker(router: Harness) -> None:
    fake = router.fakes[0]
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda seed: send_and_disconnect(router.servers.http_port, seed), range(CLIENTS)))
    deadline = time.monotonic() + 20
    while (fake.running or router.serving.open_streams) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert fake.running == 0, "a worker still runs a sequence of a client that left"
    assert fake.opened > CLIENTS / 4, "enough requests reached a worker"
    assert fake.cancelled == fake.opened
    assert not router.serving.open_streams
    assert not +router.serving.attention_workers.open_on
    assert not router.serving.attention_workers.attempts
    assert value(router, "caracal:num_requests_waiting") == value(router, "caracal:num_requests_running") == 0
    assert value(router, "caracal_gateway_cancelled_total") >= fake.cancelled
    assert value(router, "caracal:prompt_tokens_total") > 0
    failures = [s for m in router.metrics.registry.collect() if m.name == "caracal:request_failure" for s in m.samples]
    assert not failures


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_cancels_the_workers_call_at_once(router: Harness, stream: bool) -> None:
    fake = router.fakes[0]
    with socket.create_connection(("127.0.0.1", router.servers.http_port)) as connection:
        connection.sendall(request(stream, 2))
        deadline = time.monotonic() + 10
        while fake.running < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert fake.running == 2
    deadline = time.monotonic() + 10
    while fake.running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert fake.cancelled == 2
