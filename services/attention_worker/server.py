"""The worker's gRPC server: the Attention service, the standard health service and reflection on one port."""

from __future__ import annotations

import grpc
from caracal_proto import attention_pb2, attention_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.attention_worker.service import AttentionService

ALIVE = (
    "startup",
    "liveness",
)  # what Kubernetes asks besides "readiness"; the model is loaded before the server is made
SERVICE = attention_pb2.DESCRIPTOR.services_by_name["Attention"].full_name

OPTIONS = (
    # Routers ping idle connections to notice a vanished peer; by default the server would answer that with a GOAWAY.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.so_reuseport", 0),
)


class AttentionServer:
    """The server, and its health, which is the service's readiness."""

    def __init__(self, service: AttentionService) -> None:
        self._service = service
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=OPTIONS)
        attention_pb2_grpc.add_AttentionServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Port 0 takes any free one. Raises OSError when the port is taken."""
        await self._tell(self._service.ready)
        for name in ALIVE:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._service.on_ready_change = self._tell
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error}") from None
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, gives open ones `grace_s`, then cancels them."""
        await self._server.stop(grace_s)

    async def _tell(self, ready: bool) -> None:
        """What probes are told, for the server as a whole and for the service by name."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE, "readiness"):
            await self._health.set(name, status)
