"""Calls of one process whose messages carry checksums (caracal_proto.sealing): serializers, and what damage becomes.

A damaged reply ends its call: on a loop as DATA_LOSS, on threads as INTERNAL, which is what gRPC makes of a reply that
cannot be parsed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
import grpc.aio
import structlog
from caracal_proto.sealing import Damaged, Seals, sealed
from prometheus_client import Counter

log = structlog.get_logger(__name__)

LOG_S = 10.0  # between two log lines
DAMAGE = "a message was damaged on its way"
_UNPARSED = "Exception deserializing response!"  # gRPC's own words
DAMAGED_MESSAGES = Counter(
    "caracal_damaged_messages",
    "Messages between processes of the cluster that came with other bytes than they were sent with",
    ["method"],
    registry=None,
)


class _Log:
    """Log lines about damage, paced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quiet_until, self._unlogged = 0.0, 0

    def note(self, method: str, why: str) -> None:
        with self._lock:
            self._unlogged += 1
            now, messages = time.monotonic(), self._unlogged
            if now < self._quiet_until:
                return
            self._quiet_until, self._unlogged = now + LOG_S, 0
        log.warning(DAMAGE, method=method, reason=why, messages=messages)


_LOG = _Log()


def note_damage(method: str, why: str) -> None:
    """Counts and logs a damaged message. `method`: of the call, as it is registered."""
    name = method.rpartition("/")[2]
    DAMAGED_MESSAGES.labels(name).inc()
    _LOG.note(name, why)


def is_damage(error: grpc.Call) -> bool:
    """Whether a call on threads has ended because a message, of either side, was damaged."""
    code = error.code()
    return code is grpc.StatusCode.DATA_LOSS or (code is grpc.StatusCode.INTERNAL and error.details() == _UNPARSED)


def sealing(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """A serializer that adds the checksum; without one, messages are bytes already."""
    return (lambda message: sealed(serialize(message))) if serialize is not None else sealed


def checking(method: str, parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """A parser of one call's replies, which gives None for one that is damaged: gRPC takes that for no reply."""
    seals = Seals()

    def parsed(data: bytes) -> Any:
        try:
            seals.check(data)
        except Damaged as error:
            note_damage(method, str(error))
            return None
        return data if parse is None else parse(data)

    return parsed


class CheckedCall:
    """A call on a loop that ends where gRPC gives a damaged reply as None. Everything else is the call's own."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def _whole(self, reply: Any) -> Any:
        if reply is not None:
            return reply
        self._call.cancel()
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.DATA_LOSS, grpc.aio.Metadata(), grpc.aio.Metadata(), details=DAMAGE, debug_error_string=""
        )


class CheckedReply(CheckedCall):
    """A call with one reply, to be awaited."""

    def __await__(self) -> Generator[Any, None, Any]:
        reply = yield from self._call.__await__()
        return self._whole(reply)


class CheckedReplies(CheckedCall):
    """A call with a stream of replies."""

    def __init__(self, call: Any) -> None:
        super().__init__(call)
        self._replies: AsyncIterator[Any] | None = None

    def __aiter__(self) -> CheckedReplies:
        self._replies = aiter(self._call)
        return self

    async def __anext__(self) -> Any:
        assert self._replies is not None, "it is iterated over"
        return self._whole(await anext(self._replies))

    async def read(self) -> Any:
        """The next reply, or gRPC's EOF. Raises AioRpcError."""
        return self._whole(await self._call.read())


def checked(call: Any) -> Any:
    """A call that was just made, so that damage ends it; one on threads ends by itself."""
    if hasattr(call, "__aiter__"):
        return CheckedReplies(call)
    return CheckedReply(call) if hasattr(call, "__await__") else call
