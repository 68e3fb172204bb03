"""The span of one call that came over gRPC with a trace context."""

from __future__ import annotations

from collections.abc import Callable

from caracal_proto import expert_pb2

from services.process import tracing

Reply = expert_pb2.ExpertReply


def with_span(call: expert_pb2.ExpertCall, reply: Callable[[], Reply]) -> Reply:
    """Returns reply(), within a span if the call belongs to a trace."""
    otel = tracing.active()
    if otel is None or not call.traceparent:
        return reply()
    parent = otel.received({"traceparent": call.traceparent})
    if not otel.is_remote(parent):
        return reply()
    span = otel.start(
        "expert call",
        {
            "caracal.layer": call.layer,
            "caracal.step": call.step,
            "caracal.rows": call.rows,
            "caracal.assignments": len(call.expert) // 4,
            "caracal.epoch": call.epoch,
        },
        kind="server",
        parent=parent,
    )
    try:
        with otel.use(span):
            made = reply()
        if made.status != Reply.OK:
            from services.process.otel import failed

            failed(span, Reply.Status.Name(made.status), made.message)
        return made
    finally:
        span.end()
