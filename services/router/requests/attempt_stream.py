"""The stream to one attention worker, Attention.GenerateMany, that carries all of this router's attempts there."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import math
import time

import grpc
import grpc.aio
from caracal_proto import attention_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub

from services.router.requests.attempt import Attempt, AttemptFailed
from services.router.requests.worker_choice import AttentionWorkerView

_CODES = {int(code.value[0]): code for code in grpc.StatusCode}
ENDED = AttemptFailed(grpc.StatusCode.UNAVAILABLE, "the worker has ended the stream", lost=True)


class AttemptStream:
    """Opens its call at once, and runs on the event loop until `close` or until the call ends: then it has `ended`.

    `received_at`: when the last message came from the worker, by the monotonic clock. `damaged`: it ended since what
    came was not what was sent, in either direction.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.ended = self.damaged = False
        self.received_at = -math.inf
        self._call = AttentionStub(channel).GenerateMany()
        self._ids = itertools.count(1)
        self._attempts: dict[int, Attempt] = {}
        self._outgoing: asyncio.Queue[attention_pb2.AttemptMessage] = asyncio.Queue()
        empty = contextvars.Context()  # not that of the request that happens to be the first one here
        self._sending = asyncio.create_task(self._send(), context=empty)
        self._receiving = asyncio.create_task(self._receive(), context=empty)

    def begin(self, worker: AttentionWorkerView, request: attention_pb2.GenerateRequest) -> Attempt:
        """Opens an attempt at the stream's worker."""
        attempt_id = next(self._ids)
        attempt = Attempt(worker, request.attempt, lambda: self._cancel(attempt_id))
        if self.ended:
            attempt.fail(ENDED)
            attempt.implicated = False  # it was never sent
        else:
            self._attempts[attempt_id] = attempt
            self._outgoing.put_nowait(attention_pb2.AttemptMessage(attempt_id=attempt_id, request=request))
        return attempt

    async def close(self) -> None:
        """Ends the call, and with it all attempts."""
        self._call.cancel()
        self._receiving.cancel()
        await asyncio.gather(self._sending, self._receiving, return_exceptions=True)

    def _cancel(self, attempt_id: int) -> None:
        if self._attempts.pop(attempt_id, None) is not None:
            self._outgoing.put_nowait(attention_pb2.AttemptMessage(attempt_id=attempt_id))

    async def _send(self) -> None:
        try:
            while True:
                await self._call.write(await self._outgoing.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended; `_receive` gets its status

    async def _receive(self) -> None:
        failed = ENDED
        try:
            async for message in self._call:
                self.received_at, alone = time.monotonic(), len(self._attempts) == 1
                for event in message.events:
                    self._take(event, alone)
        except grpc.aio.AioRpcError as error:
            failed = AttemptFailed(error.code(), error.details() or "", lost=True)
            self.damaged = error.code() is grpc.StatusCode.DATA_LOSS
        finally:
            self._end(failed)

    def _take(self, event: attention_pb2.AttemptEvent, alone: bool) -> None:
        attempt = self._attempts.get(event.attempt_id)
        if attempt is None:
            return
        if event.HasField("event"):
            attempt.arrive(event.event)
        if event.status:
            attempt.fail(AttemptFailed(_CODES.get(event.status, grpc.StatusCode.UNKNOWN), event.details), alone)
        if attempt.complete:
            del self._attempts[event.attempt_id]

    def _end(self, failed: AttemptFailed) -> None:
        self.ended = True
        self._sending.cancel()
        attempts, self._attempts = self._attempts, {}
        for attempt in attempts.values():
            attempt.fail(failed, len(attempts) == 1)
