"""An OTLP collector on loopback, over gRPC and over HTTP, that keeps the spans it is sent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from services.process import tracing
from services.process.otel import EXPORTER_LOGGERS, Otel, Sparse

Request = trace_service_pb2.ExportTraceServiceRequest
WAIT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Received:
    """One span, with ids in hexadecimal."""

    name: str
    service: str
    instance: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    events: list[str]
    links: list[str]


@dataclass
class Collector:
    """What has been received so far."""

    endpoint: str
    spans: list[Received] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    def take(self, request: Request) -> None:
        for part in request.resource_spans:
            resource = _attributes(part.resource.attributes)
            self.resources.append(resource)
            self.spans += [_received(span, resource) for scope in part.scope_spans for span in scope.spans]

    def of_trace(self, trace_id: str) -> list[Received]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def wait_for(self, enough: Callable[[list[Received]], object], trace_id: str = "") -> list[Received]:
        """Waits until the spans, of one trace if it is given, are `enough`; returns them."""
        deadline = time.monotonic() + WAIT_S
        while True:
            spans = self.of_trace(trace_id) if trace_id else list(self.spans)
            if enough(spans):
                return spans
            assert time.monotonic() < deadline, f"spans: {sorted(span.name for span in spans)}"
            time.sleep(0.02)


@contextmanager
def grpc_collector() -> Iterator[Collector]:
    """A collector over gRPC."""
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    collector = Collector(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Request, context: Any) -> Any:
            collector.take(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]  # generated
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()


@contextmanager
def http_collector() -> Iterator[Collector]:
    """A collector over HTTP, which takes POST /v1/traces with protobuf."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf":
                collector.take(Request.FromString(body))
                self.send_response(200)
            else:
                self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def tracing_to(endpoint: str, protocol: str = "http/protobuf", worker_id: str = "here") -> Iterator[Otel]:
    """Turns tracing of this process on for a while."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        tracing.configure("test", worker_id)
    otel = tracing.active()
    assert otel is not None
    try:
        yield otel
    finally:
        tracing.shutdown()
        for name in EXPORTER_LOGGERS:
            logger = logging.getLogger(name)
            logger.filters = [each for each in logger.filters if not isinstance(each, Sparse)]


@contextmanager
def traced_here() -> Iterator[tuple[Otel, Collector]]:
    """Tracing of this process to a collector of its own."""
    with http_collector() as collector, tracing_to(collector.endpoint) as otel:
        yield otel, collector


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        service=resource["service.name"],
        instance=resource["service.instance.id"],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=[event.name for event in span.events],
        links=[link.span_id.hex() for link in span.links],
    )


def _attributes(given: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in given}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
