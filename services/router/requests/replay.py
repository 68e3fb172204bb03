"""The beginning of an answer that its client has already: it is read again, in pieces that end where its events ended.

Text, tags and calls are folds over the tokens, so a client that goes on behind the same token gets the same rest. Pure.
Events that came together, of tokens that came together, come again from the same tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from caracal_proto import attention_pb2

from services.router.requests.errors import CannotResume

SLICE_TOKENS = 512  # of what the client has, that are read at a time


@dataclass(frozen=True, slots=True)
class Position:
    """How much of a choice its client has: all events of its first `tokens`, and `events` of those that the next
    `group` tokens gave, which came together. `ended`: the choice's end was among these events."""

    tokens: int = 0
    group: int = 0
    events: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What a choice that may be gone on with takes along. `key`: what a worker knows its answer by; empty: by nothing.

    `worker`: the tag of the run that computed it, empty where that is not known.
    """

    key: bytes
    position: Position = Position()
    numerics_class: str | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Tokens that came together; `finish_reason` (stop, length) is set on the last. `prompt`: scored tokens of it."""

    tokens: Sequence[attention_pb2.Token]
    finish_reason: str = ""
    stop_id: int | None = None
    prompt: Sequence[attention_pb2.Token] = ()


def tag_of(name: str) -> str:
    """What clients see of a name of the cluster's own: it can be found again and not read."""
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


class Replay:
    """Reads batches up to a client's position so that they end there; then it is `over`, and what is left comes."""

    def __init__(self, position: Position, read: Callable[[], Awaitable[TokenBatch]]) -> None:
        self._position, self._read = position, read
        self._left: TokenBatch | None = None
        self._seen = 0

    @property
    def over(self) -> bool:
        """Whether batches may be read without it."""
        return self._left is None and self._at_position

    @property
    def _at_position(self) -> bool:
        position = self._position
        # Of an answer whose end the client has nothing is shown, so nothing need be cut.
        return (position.ended and not position.events) or self._seen >= position.tokens + position.group

    async def next(self) -> TokenBatch:
        """Returns the next batch. Raises CannotResume for an answer that ends before the position."""
        position = self._position
        if self._at_position:
            return await self._batch()
        if self._seen < position.tokens:
            return await self._piece(min(SLICE_TOKENS, position.tokens - self._seen), with_end=False)
        joined = TokenBatch(())
        while not joined.finish_reason and (position.ended or len(joined.tokens) < position.group):
            batch = await self._piece(position.group - len(joined.tokens), with_end=position.ended)
            tokens, prompt = [*joined.tokens, *batch.tokens], [*joined.prompt, *batch.prompt]
            joined = TokenBatch(tokens, batch.finish_reason, batch.stop_id, prompt)
        return joined

    async def _batch(self) -> TokenBatch:
        left, self._left = self._left, None
        return left if left is not None else await self._read()

    async def _piece(self, count: int, *, with_end: bool) -> TokenBatch:
        """Returns at most `count` tokens and keeps the others; the answer's end, too, unless `with_end`."""
        batch = await self._batch()
        if batch.finish_reason and not batch.tokens and not with_end:
            raise CannotResume("The answer ends before Last-Event-ID.")
        if with_end and len(batch.tokens) > count:
            raise CannotResume("The answer does not end where Last-Event-ID says.")
        taken, rest = batch.tokens[:count], batch.tokens[count:]
        self._seen += len(taken)
        if with_end or not (rest or batch.finish_reason):
            return batch
        self._left = TokenBatch(rest, batch.finish_reason, batch.stop_id)
        return TokenBatch(taken, prompt=batch.prompt)
