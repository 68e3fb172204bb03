"""Attacks on a router's public ports that no other tests make; numbered as in test_attack_rows.py."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, write_assets
from support.gateway_harness import Harness

pytestmark = pytest.mark.processes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RESET, SETTINGS, CONTINUATION = 1, 3, 4, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = struct.pack(">I", 8)
PATH = b"/caracal.Router/Generate"
# :method POST, :scheme http, :path literal, content-type literal: HPACK without indexing.
BLOCK = b"\x83\x86\x04%c%b\x0f\x10\x10application/grpc" % (len(PATH), PATH)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    assets = write_assets(tmp_path_factory.mktemp("model") / "tiny-cat")
    fake = FakeAttention(answers_with([], eos=EOS))
    with Harness(assets, fake) as harness:
        fake.script = answers_with(harness.ids("hello world"), eos=EOS)
        yield harness


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def lives(router: Harness) -> None:
    """Both servers answer, and soon."""
    began = time.monotonic()
    assert httpx2.get(router.url + "/health", timeout=5).status_code == 200
    with grpc.insecure_channel(f"127.0.0.1:{router.servers.grpc_port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    assert time.monotonic() - began < 5


def send(router: Harness, data: bytes) -> None:
    """Sends bytes to the gRPC port, and reads until the server has closed or says nothing more."""
    with socket.create_connection(("127.0.0.1", router.servers.grpc_port), timeout=2) as connection:
        try:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + data)
            while connection.recv(65536):
                pass
        except (TimeoutError, ConnectionError):
            return


def test_b05_streams_that_are_reset_at_once(router: Harness) -> None:
    """CVE-2023-44487."""
    burst = b"".join(
        frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(RESET, 0, stream, CANCEL) for stream in range(1, 4000, 2)
    )
    send(router, burst)
    lives(router)
    assert router.fakes[0].running == 0


def test_b05_headers_without_end(router: Harness) -> None:
    """CVE-2024-27316."""
    send(
        router, frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1, b"\x00\x01a\x7f\x81\x02" + b"b" * 385) * 20_000
    )
    lives(router)


@pytest.mark.parametrize("path", ["/console/", "/docs", "/openapi.json", "/metrics", "/v1/models"])
@pytest.mark.parametrize("ranges", ["bytes=0-0", "bytes=" + ",".join(f"{n}-{n + 5}" for n in range(2000))])
def test_b06_ranges_are_ignored(router: Harness, path: str, ranges: str) -> None:
    """CVE-2025-62727."""
    answer = httpx2.get(router.admin_url + path, headers={"range": ranges})
    assert answer.status_code in (200, 404, 431)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "http://169.254.169.254/",
        "lora:other",
        "a\r\nx: y",
        "\u202e",
        "x" * 10_000,
        "caracal-tiny\0",
    ],
)
def test_b29_names_of_models_reach_nothing(router: Harness, name: str) -> None:
    answer = httpx2.post(router.url + "/v1/completions", json={"model": name, "prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert name not in answer.text or name == "lora:other"
    assert httpx2.post(router.url + "/v1/load_lora_adapter", json={"lora_name": name}).status_code == 404


def test_b41_clients_make_no_time_series(router: Harness) -> None:
    before = len(httpx2.get(router.admin_url + "/metrics").text.splitlines())
    for number in range(60):
        httpx2.post(router.url + "/v1/completions", json={"model": f"m{number}", "prompt": "a"})
        httpx2.get(router.url + f"/nonsense/{number}")
        httpx2.request(f"METHOD{number}", router.url + "/health")
        httpx2.get(router.url + "/health", headers={"user-agent": f"u{number}", "x-request-id": f"r{number}"})
    after = len(httpx2.get(router.admin_url + "/metrics").text.splitlines())
    assert after - before < 12
