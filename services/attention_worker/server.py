"""The attention worker's gRPC server; its health is the service's readiness."""

from __future__ import annotations

from caracal_proto import attention_pb2, attention_pb2_grpc

from services.attention_worker.service import AttentionService
from services.process.grpc_server import KEEPALIVE_OPTIONS, AsyncGrpcServer
from services.security.guard import OPEN, Guard

# As routers send: a prompt of a million tokens is 4 MB, and a message that is refused ends all attempts of its stream.
MAX_MESSAGE_BYTES = 64 << 20
CALLS_PER_CONNECTION = 128  # at once: a router needs three. More wait in their caller, where they cost nothing here
SERVICE = attention_pb2.DESCRIPTOR.services_by_name["Attention"].full_name


class AttentionServer(AsyncGrpcServer):
    """Made once the model is loaded, so "startup" is true from the first moment."""

    def __init__(self, service: AttentionService, guard: Guard = OPEN) -> None:
        super().__init__(
            SERVICE,
            lambda server: attention_pb2_grpc.add_AttentionServicer_to_server(service, server),
            (
                *KEEPALIVE_OPTIONS,
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION),
            ),
            guard,
        )
        self._service = service

    async def start(self, host: str, port: int) -> int:
        await self.set_ready(self._service.ready)
        self._service.on_ready_change = self.set_ready
        return await super().start(host, port)
