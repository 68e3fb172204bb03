"""Interceptors for bytes that are no message of the type that a method takes, INVALID_ARGUMENT, and for messages that
were damaged on their way, DATA_LOSS: both say so.

gRPC by itself takes them for a fault of the server, with a traceback in the log for whoever sends them. Callers that
send checksums (caracal_proto.sealing) get replies with checksums. A stream ends at once at a message that is damaged:
nobody knows what it was to do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from caracal_proto.sealing import Damaged, Seals, sealed
from google.protobuf.message import DecodeError

from services.security.guard import KINDS
from services.security.sealed_calls import DAMAGE, note_damage

INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Malformed:
    """What came instead of a message, and the status that says so."""

    def __init__(self, method: str) -> None:
        self.code, self.reason = INVALID, f"the bytes are no valid message of the type that {method} takes"


class DamagedMessage(Malformed, Exception):
    """A message that is not what was sent."""

    def __init__(self) -> None:
        self.code, self.reason = grpc.StatusCode.DATA_LOSS, DAMAGE


class _Messages:
    """A stream of requests, which ends before one that is malformed, and raises one that is damaged. `fault`: that
    one."""

    def __init__(self, requests: Any) -> None:
        self._requests = requests
        self.fault: Malformed | None = None

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            if isinstance(request, DamagedMessage):
                raise request
            if isinstance(request, Malformed):
                self.fault = request
                return
            yield request

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for request in self._requests:
            if isinstance(request, DamagedMessage):
                raise request
            if isinstance(request, Malformed):
                self.fault = request
                return
            yield request


class LoopMessages(grpc.aio.ServerInterceptor):
    """For a server on an event loop."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        return _tolerant(await continuation(details), details.method, self._behind)

    @staticmethod
    def _behind(inner: Callable[[Any, Any], Any], request_streaming: bool, _: bool) -> Callable[[Any, Any], Any]:
        async def behave(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            given = _Messages(request) if request_streaming else request
            if isinstance(given, Malformed):
                await context.abort(given.code, given.reason)
            result = inner(given, context)
            reply = None
            try:
                if hasattr(result, "__aiter__"):  # as gRPC itself sends what a generator yields
                    async with aclosing(result) as replies:
                        async for one in replies:
                            await context.write(one)
                else:
                    reply = await result
            except DamagedMessage as damaged:
                await context.abort(damaged.code, damaged.reason)
            if isinstance(given, _Messages) and given.fault is not None:
                await context.abort(given.fault.code, given.fault.reason)
            return reply

        return behave


class ThreadMessages(grpc.ServerInterceptor):
    """For a server on threads."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails) -> Any:
        return _tolerant(continuation(details), details.method, self._behind)

    @staticmethod
    def _behind(
        inner: Callable[[Any, Any], Any], request_streaming: bool, response_streaming: bool
    ) -> Callable[[Any, Any], Any]:
        def one(request: Any, context: grpc.ServicerContext) -> Any:
            if isinstance(request, Malformed):
                context.abort(request.code, request.reason)
            return inner(request, context)

        def many(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            messages = _Messages(requests)
            try:
                yield from inner(iter(messages), context)
            except DamagedMessage as damaged:
                context.abort(damaged.code, damaged.reason)
            if messages.fault is not None:
                context.abort(messages.fault.code, messages.fault.reason)

        assert response_streaming or not request_streaming, "no method takes a stream and gives one reply"
        return many if request_streaming else one


def _tolerant(handler: Any, method: str, behind: Callable[[Any, bool, bool], Any]) -> Any:
    """The same handler for one call, which gets a Malformed for what cannot be parsed."""
    if handler is None or handler.request_deserializer is None:
        return handler
    make, attribute = KINDS[handler.request_streaming, handler.response_streaming]
    parse, serialize = handler.request_deserializer, handler.response_serializer
    seals = Seals()

    def parsed(data: bytes) -> Any:
        try:
            seals.check(data)
            return parse(data)
        except Damaged as error:
            note_damage(method[:80], str(error))
            return DamagedMessage()
        except DecodeError:
            return Malformed(method.rpartition("/")[2][:80])

    behaviour = behind(getattr(handler, attribute), handler.request_streaming, handler.response_streaming)
    return make(behaviour, parsed, lambda reply: sealed(serialize(reply)) if seals.seen else serialize(reply))
