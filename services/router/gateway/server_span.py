"""The span of one request at the gateway, by OpenTelemetry's conventions for HTTP, RPC and generative AI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.types import Scope

from services.process import tracing
from services.router.requests.errors import RouterError
from services.router.requests.generation import GenerationRequest

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CARRIED = ("traceparent", "tracestate")
LONGEST = 1024  # characters of what a client may have made as long as it likes
RPC = {"rpc.system": "grpc", "rpc.service": "caracal.Router", "rpc.method": "Generate"}


class ServerSpan:
    """A span that the block it was made for is to describe, once it knows how the request was answered."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, method: str, route: str, status: int) -> None:
        """Names the span by the route. A status from 500 on is an error of this server."""
        from services.process.otel import failed

        self._span.update_name(f"{method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            failed(self._span, str(status))


@contextmanager
def http_span(scope: Scope, request_id: str) -> Iterator[ServerSpan | None]:
    """Makes the current span of a block that answers an HTTP request; None while tracing is off."""
    otel = tracing.active()
    if otel is None:
        yield None
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    attributes = {
        "http.request.method": scope["method"],
        "url.path": scope["path"][:LONGEST],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "caracal.request_id": request_id,
    }
    for name, found in (("client", scope.get("client")), ("server", scope.get("server"))):
        if found and found[1] is not None:  # it is None for a unix socket
            attributes |= {f"{name}.address": found[0], f"{name}.port": found[1]}
    if agent := headers.get("user-agent"):
        attributes["user_agent.original"] = agent[:LONGEST]
    span = otel.start(scope["method"], attributes, kind="server", parent=otel.received(headers))
    try:
        with otel.use(span):
            yield ServerSpan(span)
    finally:
        span.end()


@contextmanager
def rpc_span(metadata: Iterable[tuple[str, str | bytes]], request_id: str) -> Iterator[None]:
    """Makes the current span of a block that answers Router.Generate, unless tracing is off."""
    otel = tracing.active()
    if otel is None:
        yield
        return
    from services.process.otel import failed

    received = {name: value for name, value in metadata if name in CARRIED and isinstance(value, str)}
    span = otel.start(
        "caracal.Router/Generate",
        {**RPC, "caracal.request_id": request_id},
        kind="server",
        parent=otel.received(received),
    )
    try:
        with otel.use(span):
            yield
    except RouterError as error:
        if error.status >= 500:
            failed(span, error.code)
        raise
    finally:
        span.end()


def describe_generation(operation: str, model: str, prompt_tokens: int, requests: Sequence[GenerationRequest]) -> None:
    """Adds to the current span what is to be generated; prompts and answers themselves are in no span.

    `operation`: chat or text_completion.
    """
    otel = tracing.active()
    if otel is None or not otel.current().is_recording():
        return
    sampling = requests[0].sampling
    otel.current().set_attributes(
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "caracal",
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gen_ai.request.choice.count": len(requests),
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.usage.input_tokens": prompt_tokens,
        }
    )
