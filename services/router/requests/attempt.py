"""One call of Attention.Generate: a generation's attempt at one attention worker."""

from __future__ import annotations

import time

import grpc.aio
from caracal_proto import attention_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub

from services.router.requests.worker_choice import AttentionWorkerView


class Attempt:
    """Opens the call at once. `last_event_at` is a time of the monotonic clock.

    An attempt that is `abandoned` may go on elsewhere; one that has `expired` ends its request.
    """

    def __init__(
        self, worker: AttentionWorkerView, channel: grpc.aio.Channel, message: attention_pb2.GenerateRequest
    ) -> None:
        self.worker = worker
        self.number = message.attempt
        self.last_event_at = time.monotonic()
        self.abandoned = self.expired = False
        self._call = AttentionStub(channel).Generate(message)

    async def read(self) -> attention_pb2.GenerateEvent | None:
        """Returns the next event, None at the end. Raises AioRpcError, or CancelledError after `abandon`."""
        event = await self._call.read()
        self.last_event_at = time.monotonic()
        return event if isinstance(event, attention_pb2.GenerateEvent) else None

    def abandon(self) -> None:
        """Gives the worker up; `read` ends at once."""
        self.abandoned = True
        self._call.cancel()

    def expire(self) -> None:
        """Gives the request up, for want of progress; `read` ends at once."""
        self.expired = True
        self.abandon()

    def cancel(self) -> None:
        self._call.cancel()
