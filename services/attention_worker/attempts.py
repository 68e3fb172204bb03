"""Attempts of callers at the engine: checked and submitted, their tokens and endings as messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import grpc
from caracal_proto import attention_pb2

from services.attention_worker.engine.engine import Engine, EngineStopped
from services.attention_worker.engine.scheduler import CannotFit
from services.attention_worker.engine.sequence import Emit, Ending, TokenOut
from services.attention_worker.request_validation import BadRequest, parse
from services.attention_worker.sequence_span import begin_sequence

_CODES = {
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "failed": grpc.StatusCode.INTERNAL,
    "cancelled": grpc.StatusCode.CANCELLED,
}


class Rejected(Exception):
    """An attempt that does not begin, with the gRPC status that says why."""

    def __init__(self, code: grpc.StatusCode, details: object) -> None:
        super().__init__(str(details))
        self.code = code


class Attempts:
    """Attempts at one engine, from any number of streams."""

    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self.draining = False

    def begin(self, request: attention_pb2.GenerateRequest, emit: Emit) -> int:
        """Submits a request; returns its key. `emit` is called with its tokens and its ending. Raises Rejected."""
        if self.draining:
            raise Rejected(grpc.StatusCode.UNAVAILABLE, "draining")
        try:
            parsed = parse(request, self._vocab_size, self._engine.limits.max_model_len)
        except BadRequest as error:
            raise Rejected(grpc.StatusCode.INVALID_ARGUMENT, error) from None
        trace = begin_sequence(request, parsed)
        if trace is not None:
            parsed, emit = replace(parsed, trace=trace), trace.watching(emit)
        try:
            return self._engine.submit(parsed, emit)
        except (CannotFit, EngineStopped) as error:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if isinstance(error, CannotFit) else grpc.StatusCode.UNAVAILABLE
            if trace is not None:
                trace.rejected(code.name)
            raise Rejected(code, error) from None

    def cancel(self, key: int) -> None:
        """Frees a sequence's pages within one step; nothing when it has ended."""
        self._engine.cancel(key)


def failure(ending: Ending | None) -> grpc.StatusCode | None:
    """The status of an attempt that failed; None for one that finished or goes on."""
    return _CODES.get(ending.reason) if ending else None


def fill(
    event: attention_pb2.GenerateEvent, attempt: int, tokens: Iterable[TokenOut], ending: Ending | None
) -> attention_pb2.GenerateEvent:
    """Writes tokens and the ending of an attempt that has not failed into an empty event; returns it."""
    event.attempt = attempt
    for token in tokens:
        added = event.tokens.add(
            index=token.index, id=token.id, logits_checksum=token.logits_checksum, logprob=token.logprob
        )
        for id, logprob in token.top:
            added.top.add(id=id, logprob=logprob)
    if ending is not None:
        event.finish_reason = ending.reason
        event.stop_id = ending.stop_id
    return event
