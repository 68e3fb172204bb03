"""The span of one layer's dispatch: from the sending of its rows until the last reply has been taken in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.process import tracing
from services.router.dispatch.errors import DispatchError

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class DispatchSpan:
    """One layer's span. `traceparent` is for the calls over gRPC; the frames of native sessions carry none."""

    def __init__(self, span: Span, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def sent(self, rows: int, assignments: int, messages: int) -> None:
        """Notes what was sent at first."""
        self._span.set_attributes(
            {"caracal.rows": rows, "caracal.assignments": assignments, "caracal.messages": messages}
        )

    def retried(self, messages: int, why: DispatchError | None) -> None:
        """Notes messages that were sent again, and the last failure."""
        self._span.add_event("retry", {"caracal.messages": messages, "exception.message": str(why or "")})

    def hedged(self, messages: int, worker_id: str) -> None:
        """Notes messages that were sent beside a worker's call, which is overdue."""
        self._span.add_event("hedge", {"caracal.messages": messages, "caracal.overdue": worker_id})

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block that waits for the replies; the span ends with it."""
        from services.process.otel import failed

        self._span.add_event("wait")
        try:
            yield
        except DispatchError as error:
            failed(self._span, type(error).__name__, str(error))
            raise
        finally:
            self._span.end()


def dispatch_span(layer: int) -> DispatchSpan | None:
    """Begins the span of a layer, below that of its step; None when the step has none."""
    otel = tracing.active()
    span = otel.child("dispatch", {"caracal.layer": layer}, kind="client") if otel is not None else None
    if otel is None or span is None:
        return None
    return DispatchSpan(span, otel.carried(span)[0])
