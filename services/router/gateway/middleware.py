"""Middleware around every HTTP request: its id, the header limits, one log line, one count."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.router.gateway.drain_body import BodyDrain
from services.router.gateway.errors import CLIENT_GONE, error_response
from services.router.gateway.messages_api.errors import is_messages_route
from services.router.gateway.methods import options, routed
from services.router.gateway.server_span import ServerSpan, http_span
from services.router.requests.errors import InvalidRequest
from services.router.requests.metrics import RequestMetrics

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS")  # with a label of their own; all others share one
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 << 10
UNLOGGED = {"/health", "/ready", "/ping", "/metrics", "/load", "/console/api/state"}  # polled every few seconds


class HeadersTooLarge(InvalidRequest):
    """Expected: more headers than a request may have."""

    status = 431
    code = "headers_too_large"


class RequestMiddleware:
    """The outermost ASGI layer. Uses the client's x-request-id if it is well formed, else makes one."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = client_request_id(scope["headers"]) or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if scope["path"] in UNLOGGED:
                await self._serve(scope, receive, send, request_id, None)
                return
            with http_span(scope, request_id) as span:
                await self._serve(scope, receive, send, request_id, span)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, span: ServerSpan | None
    ) -> None:
        began, status, inner = time.monotonic(), 0, scope
        body = BodyDrain(scope, receive, send)

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name, request_id.encode()) for name in id_headers(inner)]
                message["headers"] = [*message.get("headers", ()), *own]
            await body.send(message)

        try:
            answer: ASGIApp | None = None
            try:
                inner = checked(scope)
                answer = options(inner) if scope["method"] == "OPTIONS" else None
            except InvalidRequest as error:
                answer = error_response(error, scope)
            await (answer or self._app)(inner, body.receive, tagged)
        finally:
            route = getattr(inner.get("route"), "path", "unmatched")
            status = status or CLIENT_GONE
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.http(method, route, status).inc()
            if span is not None:
                span.answered(method, route, status)
            if route not in UNLOGGED:
                seconds = round(time.monotonic() - began, 3)
                log.info("request", method=method, route=route, status=status, seconds=seconds, request_id=request_id)


def client_request_id(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if REQUEST_ID.fullmatch(text) else None
    return None


def id_headers(scope: Scope) -> tuple[bytes, ...]:
    """The headers that carry the request's id: Anthropic's clients read one of another name."""
    return (b"x-request-id", b"request-id") if is_messages_route(scope["path"]) else (b"x-request-id",)


def checked(scope: Scope) -> Scope:
    """The scope as routes are to see it. Raises InvalidRequest."""
    if too_large(scope["headers"]):
        raise HeadersTooLarge(f"At most {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes of them.")
    return routed(scope)


def too_large(headers: list[tuple[bytes, bytes]]) -> bool:
    return len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES
