"""A worker's gRPC health over HTTP, for probes that show no certificate."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2
import pytest
from prometheus_client import CollectorRegistry
from support.certificates import Certificates

from services.process.grpc_server import ThreadedGrpcServer
from services.process.metrics_server import serve_metrics
from services.process.own_health import OwnHealth
from services.security.channels import Dialer
from services.security.guard import Guard
from services.security.identity import EXPERT
from services.security.tls import NO_TLS, Tls

NAME = "caracal.Expert"


def nothing(_: grpc.Server) -> None:
    """A server with health and reflection alone."""


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Tls:
    return Certificates(tmp_path / "tls").tls(EXPERT) if request.param else NO_TLS


@pytest.fixture
def server(tls: Tls) -> Iterator[ThreadedGrpcServer]:
    one = ThreadedGrpcServer(NAME, nothing, ThreadPoolExecutor(4), 4, guard=Guard(tls=tls))
    yield one
    one.stop(0)


def test_health_over_http_is_that_of_the_grpc_server(server: ThreadedGrpcServer, tls: Tls) -> None:
    own = OwnHealth(Dialer(tls=tls), EXPERT, "0.0.0.0", server.start("0.0.0.0", 0))
    url = f"http://127.0.0.1:{serve_metrics('127.0.0.1', 0, CollectorRegistry(), health=own)}"

    def codes() -> list[int]:
        return [httpx2.get(f"{url}/health/{name}").status_code for name in ("startup", "liveness", "readiness")]

    assert codes() == [200, 200, 503]
    server.set_ready(True)
    assert codes() == [200, 200, 200]
    server.stop(0)
    assert codes() == [503, 503, 503]
    assert "the gRPC server does not answer: UNAVAILABLE" in httpx2.get(f"{url}/health/liveness").json()["reason"]
