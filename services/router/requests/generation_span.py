"""The spans of a generation's attempts, and what its end adds to the span of the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caracal_proto import attention_pb2

from services.process import tracing
from services.router.requests.attempt import AttemptFailed
from services.router.requests.worker_choice import AttentionWorkerView

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def start_attempt(worker: AttentionWorkerView, request: attention_pb2.GenerateRequest) -> Span | None:
    """A span of one attempt, whose context the request takes along; None while tracing is off."""
    otel = tracing.active()
    if otel is None:
        return None
    host, _, port = worker.address.rpartition(":")
    span = otel.start(
        "attempt",
        {
            "rpc.system": "grpc",
            "rpc.service": "caracal.Attention",
            "rpc.method": "GenerateMany",
            "server.address": host.strip("[]"),
            "server.port": int(port) if port.isdecimal() else 0,
            "caracal.worker_id": worker.worker_id,
            "caracal.request_id": request.request_id,
            "caracal.attempt": request.attempt,
            "caracal.emitted_tokens": len(request.emitted_ids),
        },
        kind="client",
    )
    request.traceparent, request.tracestate = otel.carried(span)
    return span


def attempt_failed(span: Span | None, failure: AttemptFailed | None) -> None:
    """Marks an attempt that ended without a finish reason."""
    if span is not None:
        from services.process.otel import failed

        failed(span, failure.code.name if failure else "ended_early", failure.details[:200] if failure else "")


def choice_ended(tokens: int, reason: str, first_token_s: float) -> None:
    """Adds one finished choice to the request's span; `first_token_s`: seconds until its first token."""
    otel = tracing.active()
    if otel is None or not (span := otel.current()).is_recording():
        return
    from services.process.otel import attribute

    before, reasons = attribute(span, "gen_ai.usage.output_tokens"), attribute(span, "gen_ai.response.finish_reasons")
    span.set_attributes(
        {
            "gen_ai.usage.output_tokens": tokens + (before if isinstance(before, int) else 0),
            "gen_ai.response.finish_reasons": [*(map(str, reasons) if isinstance(reasons, tuple) else ()), reason],
            "gen_ai.latency.time_to_first_token": first_token_s,
        }
    )


def choice_failed(code: str) -> None:
    """Marks the request's span with the code of the error that ended a choice."""
    otel = tracing.active()
    if otel is not None:
        from services.process.otel import failed

        failed(otel.current(), code)
