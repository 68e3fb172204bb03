"""A stream that nobody reads lets go of its place at a worker, while others are served."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import httpx2
from support.fake_attention import FakeAttention, answers_with
from support.gateway_harness import MODEL, Harness
from support.raw_http import post, read_all

from services.router.gateway.streaming import LOOK_S, UNREAD_S

LATE_S = 15.0  # by which a busy machine may be late
TOKENS, CHOICES, STREAMS = 500, 8, 6  # about 1 MB each


def test_streams_that_nobody_reads_let_go_of_their_places(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70] * TOKENS, chunk=10, pause=0.3), places=CHOICES * STREAMS + 8)
    asked = {"model": MODEL, "prompt": [5, 6], "stream": True, "max_tokens": TOKENS, "n": CHOICES, "logprobs": 5}
    with Harness(assets_path, fake) as harness, contextlib.ExitStack() as stack:
        deadline = time.monotonic() + UNREAD_S + 2 * LOOK_S + LATE_S
        unread = []
        for _ in range(STREAMS):
            unread.append(connection := stack.enter_context(socket.socket()))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            connection.connect(("127.0.0.1", harness.servers.http_port))
            connection.sendall(post("/v1/completions", json.dumps(asked).encode()))
        while fake.cancelled < CHOICES * STREAMS:
            assert time.monotonic() < deadline, "their sequences still run"
            assert httpx2.get(harness.url + "/health").status_code == 200
            time.sleep(0.05)
        while harness.metrics.registry.get_sample_value("caracal_gateway_places_used"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for connection in unread:
            connection.settimeout(LATE_S)
            with contextlib.suppress(ConnectionResetError):
                assert b"[DONE]" not in read_all(connection)
