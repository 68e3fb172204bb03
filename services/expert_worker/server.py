"""The expert worker's gRPC server.

On threads: a session's thread reads a call, takes its turn in the batcher and writes the reply, without a switch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from caracal_proto import expert_pb2, expert_pb2_grpc

from services.expert_worker.call_memory import largest_message
from services.expert_worker.service import ExpertService
from services.process.cores import run_on
from services.process.grpc_server import KEEPALIVE_OPTIONS, ThreadedGrpcServer
from services.security.guard import OPEN, Guard

SERVICE = expert_pb2.DESCRIPTOR.services_by_name["Expert"].full_name
MAX_REPLY_BYTES = 1 << 30
SPARE_CALLS = (
    16  # threads kept for Describe, Prepare, Commit, Load, health and reflection; the service counts the others
)

OPTIONS = (
    ("grpc.max_send_message_length", MAX_REPLY_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    *KEEPALIVE_OPTIONS,
)


class ExpertServer(ThreadedGrpcServer):
    """It is NOT_SERVING until `set_ready` says otherwise."""

    def __init__(
        self, service: ExpertService, max_sessions: int, cores: frozenset[int] = frozenset(), guard: Guard = OPEN
    ) -> None:
        """`cores`: where calls are computed, also those of native sessions, whose threads are started by a call."""
        calls = 2 * max_sessions + SPARE_CALLS  # a session, and now and then the rendezvous of its P2P group
        threads = torch.get_num_threads()

        def prepare_thread() -> None:
            run_on(cores)
            torch.set_num_threads(threads)  # OpenMP keeps this number per thread

        pool = ThreadPoolExecutor(calls, "session", initializer=prepare_thread)
        super().__init__(
            SERVICE,
            lambda server: expert_pb2_grpc.add_ExpertServicer_to_server(service, server),
            pool,
            calls,
            (("grpc.max_receive_message_length", largest_message(service.expected)), *OPTIONS),
            guard,
        )
