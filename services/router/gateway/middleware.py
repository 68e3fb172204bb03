"""Middleware around every HTTP request: its id, the header limits, one log line, one count."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.router.access.control import Access
from services.router.access.errors import Unauthorized
from services.router.access.keys import ApiKey
from services.router.access.owner import owner
from services.router.gateway.admin_port import check_port
from services.router.gateway.drain_body import BodyDrain
from services.router.gateway.errors import CLIENT_GONE, error_response
from services.router.gateway.messages_api.errors import speaks_anthropic
from services.router.gateway.methods import options, plain, routed
from services.router.gateway.server_span import ServerSpan, http_span
from services.router.requests.admission import Admission
from services.router.requests.callers import Caller, caller_at
from services.router.requests.errors import InvalidRequest, RouterError
from services.router.requests.metrics import RequestMetrics

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS")  # with a label of their own; all others share one
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 << 10
QUIET_S = 60.0  # between two log lines that say that requests are refused
UNLOGGED = {"/health", "/ready", "/ping", "/metrics", "/load", "/console/api/state"}  # polled every few seconds


class HeadersTooLarge(InvalidRequest):
    """Expected: more headers than a request may have."""

    status = 431
    code = "headers_too_large"


class RequestMiddleware:
    """The outermost ASGI layer. Uses the client's x-request-id if it is well formed, else makes one."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: RequestMetrics,
        access: Access,
        admission: Admission,
        limited: Collection[str],
        largest_body: int,
    ) -> None:
        """`limited`: the paths whose POST is a request to admission. `largest_body`: bytes of one whose length is not
        known."""
        self._app = app
        self._metrics, self._access = metrics, access
        self._admission, self._limited, self._largest_body = admission, limited, largest_body
        self._quiet_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = plain(scope)
        request_id = client_request_id(scope["headers"]) or uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, key=None)
        try:
            # What a browser asks before it sends a key has none.
            key = None if scope["method"] == "OPTIONS" else self._access.check(scope["path"], scope["headers"])
            scope["state"]["key"] = key
            visit = self._visit(scope, key)
        except RouterError as error:
            await self._refuse(error, scope, receive, send, request_id)
            return
        token = owner.set(key.name if key else "")
        try:
            with visit:
                await self._traced(scope, receive, send, request_id)
        finally:
            owner.reset(token)

    def _visit(self, scope: Scope, key: ApiKey | None) -> AbstractContextManager[object]:
        """Takes the request on, if it is one that is counted. Raises TooManyRequests or Overloaded."""
        if scope["method"] != "POST" or scope["path"] not in self._limited:
            return nullcontext()
        use = self._access.begin(key) if key else None
        caller = self._access.caller(key) if key else caller_of(scope)
        return self._admission.visit(caller, body_bytes(scope["headers"], self._largest_body), use, unread=True)

    async def _refuse(self, error: RouterError, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Answers without a look at the request: it has no key, or there are too many of them."""
        method, path = scope["method"], scope["path"]
        route = path if method == "POST" and path in self._limited else "unmatched"
        self._metrics.http(method if method in METHODS else "other", route, error.status).inc()
        if error.status != Unauthorized.status and time.monotonic() >= self._quiet_until:
            log.warning("requests are refused", status=error.status, code=error.code)
            self._quiet_until = time.monotonic() + QUIET_S
        body = BodyDrain(scope, receive, send)
        answer = error_response(error, scope)
        key = scope["state"]["key"]
        for name, value in self._access.headers(key) if key else ():
            answer.headers[name.decode()] = value.decode()
        for name in id_headers(scope):
            answer.headers[name.decode()] = request_id
        await answer(scope, body.receive, body.send)

    async def _traced(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        key = scope["state"]["key"]
        who = {"key": key.name} if key else {}
        with structlog.contextvars.bound_contextvars(request_id=request_id, **who):
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
                if (key := scope["state"]["key"]) is not None:
                    own += self._access.headers(key)
                message["headers"] = [*message.get("headers", ()), *own]
            await body.send(message)

        try:
            answer: ASGIApp | None = None
            try:
                inner = checked(scope)
                check_port(inner)
                answer = options(inner) if scope["method"] == "OPTIONS" else None
                if answer is None:
                    self._access.check_admin(inner["path"], scope["state"]["key"])
            except RouterError as error:
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
    return (b"x-request-id", b"request-id") if speaks_anthropic(scope) else (b"x-request-id",)


def checked(scope: Scope) -> Scope:
    """The scope as routes are to see it. Raises InvalidRequest."""
    if too_large(scope["headers"]):
        raise HeadersTooLarge(f"At most {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes of them.")
    return routed(scope)


def too_large(headers: list[tuple[bytes, bytes]]) -> bool:
    return len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES


def caller_of(scope: Scope) -> Caller:
    """Who sends a request. A key that nobody has checked says nothing: a client could make up as many as it likes."""
    return caller_at(scope["client"][0] if scope.get("client") else "")


def body_bytes(headers: list[tuple[bytes, bytes]], largest: int) -> int:
    """The bytes of a body as far as they are known before it is read: those that it may have, at most `largest`."""
    named = dict(headers)
    length = named.get(b"content-length", b"")
    if b"content-encoding" in named or not length.isdigit():
        return largest
    return min(int(length[:20]), largest)
