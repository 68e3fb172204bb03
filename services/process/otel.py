"""OpenTelemetry's SDK, set up from OTEL_* variables. Imported only where tracing is on.

The provider is this process's own, not the global one: libraries with instrumentation of their own stay silent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

log = structlog.get_logger(__name__)

FLUSH_S = 2.0  # for the last spans when a process ends
QUIET_S = 60.0
# They log each failed try; a collector may be away for hours.
EXPORTER_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)

Attributes = Mapping[str, AttributeValue]
Kind = Literal["internal", "server", "client"]


class Otel:
    """Makes spans and exports them on a thread of its own. Any thread may use it."""

    def __init__(self, protocol: str, role: str, worker_id: str) -> None:
        for name in EXPORTER_LOGGERS:
            logging.getLogger(name).addFilter(Sparse())
        self._provider = TracerProvider(resource=_resource(role, worker_id), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(protocol)))
        self._tracer = self._provider.get_tracer("caracal", _version())
        self._wire = TraceContextTextMapPropagator()
        log.info("tracing is on", protocol=protocol, sampler=self._provider.sampler.get_description())

    def start(
        self,
        name: str,
        attributes: Attributes,
        *,
        kind: Kind = "internal",
        parent: Context | None = None,
        links: Sequence[Span] = (),
        start_ns: int | None = None,
    ) -> Span:
        """A new span, below `parent` or else the current span; `start_ns` of time.time_ns, if it began earlier."""
        return self._tracer.start_span(
            name,
            parent,
            SpanKind[kind.upper()],
            attributes,
            [Link(each.get_span_context()) for each in links],
            start_ns,
            record_exception=False,
            set_status_on_exception=False,
        )

    def child(self, name: str, attributes: Attributes, *, kind: Kind = "internal") -> Span | None:
        """A new span below the current one; None when there is none that is recorded."""
        return self.start(name, attributes, kind=kind) if trace.get_current_span().is_recording() else None

    def below(self, span: Span) -> Context:
        """The context in which a span is the parent of new ones."""
        return trace.set_span_in_context(span, Context())

    def use(self, span: Span) -> AbstractContextManager[Span]:
        """Makes a span the current one of this thread or task for a while. It does not end with that."""
        return trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)

    def current(self) -> Span:
        """The current span; one that records nothing, if there is none."""
        return trace.get_current_span()

    def received(self, carrier: Mapping[str, str]) -> Context:
        """The context of a W3C traceparent and tracestate that came with a request; empty when they are not valid."""
        return self._wire.extract(carrier, Context())

    def is_remote(self, context: Context) -> bool:
        """Whether a context that was received has a trace."""
        return trace.get_current_span(context).get_span_context().is_valid

    def carried(self, span: Span) -> tuple[str, str]:
        """A span as W3C traceparent and tracestate, for the request that it makes; empty when it is not valid."""
        carrier: dict[str, str] = {}
        self._wire.inject(carrier, self.below(span))
        return carrier.get("traceparent", ""), carrier.get("tracestate", "")

    def exemplar(self) -> Mapping[str, str] | None:
        """The current span as labels of an exemplar; None when its trace is not sampled."""
        context = trace.get_current_span().get_span_context()
        return _ids(context) if context.is_valid and context.trace_flags.sampled else None

    def log_fields(self) -> Mapping[str, str]:
        """The current span as fields of a log line."""
        context = trace.get_current_span().get_span_context()
        return _ids(context) if context.is_valid else {}

    def close(self) -> None:
        """Exports what is left. Spans that the collector has not taken within FLUSH_S are lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="otel-shutdown", daemon=True)
        closing.start()
        closing.join(FLUSH_S)


def failed(span: Span, kind: str, message: str = "") -> None:
    """Marks a span as failed; `kind` is the error's class or code."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message or None))


def attribute(span: Span, name: str) -> AttributeValue | None:
    """What an attribute of a span was set to; None when it was not, or the span is not recorded."""
    return (span.attributes or {}).get(name) if isinstance(span, ReadableSpan) else None


class Sparse(logging.Filter):
    """Lets the same message through once in QUIET_S."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._quiet_until.get(str(record.msg), 0.0):
            return False
        self._quiet_until[str(record.msg)] = now + QUIET_S
        return True


def _ids(context: trace.SpanContext) -> Mapping[str, str]:
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def _resource(role: str, worker_id: str) -> Resource:
    """Attributes of this process; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes first."""
    own = {SERVICE_NAME: f"caracal-{role}", SERVICE_INSTANCE_ID: worker_id, SERVICE_VERSION: _version()}
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


def _exporter(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp()


def _version() -> str:
    try:
        return version("caracal")
    except PackageNotFoundError:
        return "0+source"
