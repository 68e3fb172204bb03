"""The span of one attempt at this worker, with its time in the queue, in prefill and in decode below it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from caracal_proto import attention_pb2

from services.attention_worker.engine.sequence import Emit, Ending, Request, TokenOut
from services.process import tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from services.process.otel import Otel

FIRST_STEPS = 4  # of a sequence that have a span; later ones have it at powers of two, so that there are few


class SequenceSpan:
    """Follows one sequence from its submission to its ending. The engine's thread calls `scheduled` and reads `span`,
    the receiver of its tokens calls the rest."""

    def __init__(self, otel: Otel, span: Span) -> None:
        self.span = span
        self._otel = otel
        self._submitted_ns = time.time_ns()
        self._scheduled_ns = self._first_ns = 0
        self._steps = self._tokens = 0
        self._ended = False

    def scheduled(self) -> bool:
        """Notes that the sequence is part of a step; returns whether this step is one to have a span."""
        if not self._scheduled_ns:
            self._scheduled_ns = time.time_ns()
        self._steps += 1
        return self._steps <= FIRST_STEPS or not self._steps & (self._steps - 1)

    def watching(self, emit: Emit) -> Emit:
        """The same receiver, with an eye on the first token and the ending."""

        def watched(tokens: list[TokenOut], ending: Ending | None) -> None:
            generated = sum(token.generated for token in tokens)
            if generated and not self._first_ns:
                self._first_ns = time.time_ns()
            self._tokens += generated
            if ending is not None:
                self.end(ending)
            emit(tokens, ending)

        return watched

    def end(self, ending: Ending) -> None:
        """Ends the spans, once. `watching` does it for a sequence whose receiver gets an ending."""
        if self._ended:
            return
        self._ended = True
        now = time.time_ns()
        times = (
            ("queue", self._submitted_ns, self._scheduled_ns or now),
            ("prefill", self._scheduled_ns, self._first_ns or now),
            ("decode", self._first_ns, now),
        )
        for name, began_ns, ended_ns in times:
            if began_ns:
                child = self._otel.start(name, {}, parent=self._otel.below(self.span), start_ns=began_ns)
                child.end(max(began_ns, ended_ns))
        self.span.set_attributes(
            {
                "gen_ai.usage.output_tokens": self._tokens,
                "gen_ai.response.finish_reasons": [ending.reason],
                "caracal.steps": self._steps,
            }
        )
        if ending.reason in ("unavailable", "failed", "rejected"):
            from services.process.otel import failed

            failed(self.span, ending.reason, ending.message)
        self.span.end(now)


def begin_sequence(message: attention_pb2.GenerateRequest, request: Request) -> SequenceSpan | None:
    """Begins the span of a request that came with a sampled trace context; None for others.

    A worker begins no trace of its own: without a context there is nothing that its spans would belong to.
    """
    otel = tracing.active()
    if otel is None or not message.traceparent:
        return None
    parent = otel.received({"traceparent": message.traceparent, "tracestate": message.tracestate})
    if not otel.is_remote(parent):
        return None
    span = otel.start(
        "sequence",
        {
            "caracal.request_id": request.request_id,
            "caracal.attempt": message.attempt,
            "caracal.emitted_tokens": len(request.emitted_ids),
            "gen_ai.usage.input_tokens": len(request.prompt_ids),
        },
        kind="server",
        parent=parent,
    )
    return SequenceSpan(otel, span) if span.is_recording() else None
