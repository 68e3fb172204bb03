"""This process's gRPC health for probes over HTTP: those of Kubernetes show no certificate, so TLS rejects them."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.process.addresses import authority, on_this_machine
from services.process.grpc_server import ALIVE, READY
from services.security.channels import Dialer

CALL_S = 1.5  # less than a probe's own time
NAMES = frozenset({*ALIVE, READY})


class OwnHealth:
    """Asks the process's own gRPC server, over a connection like any other, so it answers only if that does."""

    def __init__(self, dialer: Dialer, role: str, host: str, port: int) -> None:
        """`dialer` has the process's certificate, `role` is the process's, `host` and `port` are listened on."""
        channel = dialer.threaded(authority(on_this_machine(host), port), role)
        self._stub: Any = HealthStub(channel)

    def fault(self, name: str) -> str:
        """Why the health of this name, one of NAMES, is not good; empty when it is."""
        try:
            reply = self._stub.Check(HealthCheckRequest(service=name), timeout=CALL_S)
        except grpc.RpcError as error:
            return f"the gRPC server does not answer: {error.code().name if isinstance(error, grpc.Call) else error}"
        return "" if reply.status == HealthCheckResponse.SERVING else f"{name} is not serving"
