"""Many attempts over one stream, Attention.GenerateMany: one message per step instead of one per sequence and step.

A message costs the event loops of both sides several times what its content costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import grpc
from caracal_proto import attention_pb2

from services.attention_worker.attempts import Attempts, Rejected, failure, fill
from services.attention_worker.engine.sequence import Ending, TokenOut

MOST_REJECTED = 1000  # that a caller has not read yet: no more of its messages are read then


@dataclass(slots=True)
class _Open:
    """An attempt that has not ended, and what it has not sent yet."""

    key: int
    number: int
    tokens: list[TokenOut]
    ending: Ending | None = None


class AttemptStream:
    """One GenerateMany call. It ends when its caller ends it, or without attempts while the worker is draining."""

    def __init__(self, attempts: Attempts, messages: AsyncIterator[attention_pb2.AttemptMessage]) -> None:
        self._attempts, self._messages = attempts, messages
        self._open: dict[int, _Open] = {}
        self._news: dict[int, _Open] = {}  # attempts with something to send, in the order that it came
        self._rejected: list[tuple[int, int, str]] = []  # id, status, details
        self._sent = asyncio.Event()
        self._changed = asyncio.Event()
        self._ended = False  # the caller opens no more

    async def events(self) -> AsyncGenerator[attention_pb2.AttemptEvents]:
        """What there is to send, until the stream's end; cancels what is open then. Raises Rejected."""
        reading = asyncio.create_task(self._read())
        try:
            while not (self._idle and self._ended):
                await self._changed.wait()
                self._changed.clear()
                if self._news or self._rejected:
                    yield self._news_so_far()
                if reading.done():
                    self._ended = True
                    reading.result()
                elif self._attempts.draining and self._idle:
                    raise Rejected(grpc.StatusCode.UNAVAILABLE, "draining")
        finally:
            reading.cancel()
            for each in self._open.values():
                self._attempts.cancel(each.key)
            await asyncio.gather(reading, return_exceptions=True)

    def look(self) -> None:
        """Ends the stream if it is over now: the worker has begun to drain."""
        self._changed.set()

    @property
    def _idle(self) -> bool:
        """Whether no attempt is open, and nothing is left to send."""
        return not (self._open or self._news or self._rejected)

    async def _read(self) -> None:
        try:
            async for message in self._messages:
                while len(self._rejected) >= MOST_REJECTED:
                    self._sent.clear()
                    await self._sent.wait()
                if message.HasField("request"):
                    self._begin(message.attempt_id, message.request)
                elif (cancelled := self._open.pop(message.attempt_id, None)) is not None:
                    self._news.pop(message.attempt_id, None)
                    self._attempts.cancel(cancelled.key)
                    self._changed.set()
        finally:
            self._changed.set()

    def _begin(self, attempt_id: int, request: attention_pb2.GenerateRequest) -> None:
        if attempt_id in self._open or attempt_id in self._news:
            raise Rejected(grpc.StatusCode.INVALID_ARGUMENT, f"attempt_id {attempt_id} is in use on this stream")
        opened = _Open(0, request.attempt, [])

        def emit(tokens: list[TokenOut], ending: Ending | None) -> None:
            if self._open.get(attempt_id) is not opened:
                return
            opened.tokens.extend(tokens)
            opened.ending = ending
            self._news[attempt_id] = opened
            if ending is not None:
                del self._open[attempt_id]
            self._changed.set()

        try:
            opened.key = self._attempts.begin(request, emit)
        except Rejected as error:
            self._rejected.append((attempt_id, _number(error.code), str(error)))
            self._changed.set()
        else:
            self._open[attempt_id] = opened

    def _news_so_far(self) -> attention_pb2.AttemptEvents:
        """Everything that has come since the last message."""
        message = attention_pb2.AttemptEvents()
        for attempt_id, status, details in self._rejected:
            message.events.add(attempt_id=attempt_id, status=status, details=details)
        for attempt_id, each in self._news.items():
            event = message.events.add(attempt_id=attempt_id)
            code = failure(each.ending)
            if each.tokens or code is None:
                fill(event.event, each.number, each.tokens, None if code else each.ending)
            if code and each.ending:
                event.status, event.details = _number(code), each.ending.message
            each.tokens = []
        self._rejected, self._news = [], {}
        self._sent.set()
        return message


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])
