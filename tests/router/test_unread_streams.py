"""A stream that nobody reads lets go of its place at a worker, while others are served."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import grpc
import httpx2
import pytest
from caracal_proto import router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.fake_attention import FakeAttention, answers_with
from support.gateway_harness import MODEL, Harness
from support.raw_http import post, read_all

from services.router.connection_times import ConnectionTimeouts
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


def gone(harness: Harness, gauge: str) -> bool:
    return not harness.metrics.registry.get_sample_value(gauge)


def wait_for(harness: Harness, gauge: str) -> None:
    deadline = time.monotonic() + LATE_S
    while not gone(harness, gauge):
        assert time.monotonic() < deadline, gauge
        time.sleep(0.01)


@pytest.mark.processes
def test_a_place_is_others_once_the_worker_has_ended_however_slowly_a_client_reads(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70] * TOKENS, chunk=100), places=STREAMS)
    asked = {"model": MODEL, "prompt": [5, 6], "stream": True, "max_tokens": TOKENS, "n": 4, "logprobs": 5}
    with Harness(assets_path, fake) as harness, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        slow.connect(("127.0.0.1", harness.servers.http_port))
        slow.sendall(post("/v1/completions", json.dumps(asked).encode(), extra="connection: close\r\n"))
        while fake.finished < 4:
            time.sleep(0.01)
        assert slow.recv(100)
        wait_for(harness, "caracal_gateway_places_used")
        assert not any(harness.serving.attention_workers.open_on.values())
        assert len(harness.serving.open_streams) == 4, "there is more than it has read"
        slow.settimeout(LATE_S)
        assert read_all(slow).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "and it gets all of it"


@pytest.mark.processes
def test_a_call_that_nobody_reads_ends(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70] * TOKENS, chunk=10, pause=0.1), places=STREAMS)
    timeouts = ConnectionTimeouts(unread_s=0.5)
    request = router_pb2.TextRequest(prompt="hi")
    request.sampling.max_tokens, request.sampling.logprobs, request.sampling.top_logprobs = TOKENS, True, 20
    with Harness(assets_path, fake, connection_timeouts=timeouts) as harness:
        small = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
        with grpc.insecure_channel(f"127.0.0.1:{harness.servers.grpc_port}", small) as channel:
            events = RouterStub(channel).Generate(request)
            next(events)
            deadline = time.monotonic() + LATE_S
            while harness.serving.open_streams:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with pytest.raises(grpc.RpcError) as raised:
                list(events)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert fake.cancelled == 1
