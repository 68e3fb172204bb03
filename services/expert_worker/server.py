"""The worker's gRPC server: the Expert service, the standard health service and reflection on one port.

Synchronous: a session's thread reads a call, takes its turn in the batcher and writes the answer, without a switch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.expert_worker.service import ExpertService

ALIVE = ("startup", "liveness")  # what Kubernetes asks besides "readiness"
SERVICE = expert_pb2.DESCRIPTOR.services_by_name["Expert"].full_name
MAX_MESSAGE_BYTES = 1 << 30
SPARE_CALLS = 16  # threads kept for Describe, Prepare, Commit, health and reflection; the service counts the others

OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Attention workers ping idle sessions to notice a vanished peer; by default the server would answer with a GOAWAY.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.so_reuseport", 0),
)


class ExpertServer:
    """The server and its health. It is NOT_SERVING until `ready` says otherwise."""

    def __init__(self, service: ExpertService, max_sessions: int) -> None:
        self._health = health.HealthServicer()
        threads = torch.get_num_threads()
        calls = 2 * max_sessions + SPARE_CALLS  # a session, and now and then the rendezvous of its pair
        # OpenMP keeps its number of threads per calling thread. A call too many is refused, not left waiting.
        pool = ThreadPoolExecutor(calls, "session", initializer=torch.set_num_threads, initargs=(threads,))
        self._server = grpc.server(pool, options=OPTIONS, maximum_concurrent_rpcs=calls)
        expert_pb2_grpc.add_ExpertServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Port 0 takes any free one. Raises OSError when the port is taken."""
        self.ready(False)
        for name in ALIVE:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error}") from None
        self._server.start()
        return bound

    def ready(self, serving: bool) -> None:
        """What probes are told, for the server as a whole and for the service by name."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE, "readiness"):
            self._health.set(name, status)

    def stop(self, grace_s: float) -> None:
        """Takes no more calls, gives open ones `grace_s`, then cancels them."""
        self._server.stop(grace_s).wait()
