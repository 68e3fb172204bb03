"""Error responses in OpenAI's format, or on its routes in Anthropic's, also for errors of the framework itself."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from services.router.access.errors import Unauthorized
from services.router.gateway.content_encoding import TAKEN, UnsupportedEncoding
from services.router.gateway.messages_api.errors import error_body, speaks_anthropic
from services.router.gateway.methods import allow
from services.router.requests.errors import InvalidRequest, RouterError

log = structlog.get_logger(__name__)

CLIENT_GONE = 499
INTERNAL_ERROR = "Internal server error; details are in the router's log."
REASONS = {
    400: ("The request is not valid HTTP.", "bad_request"),
    404: ("There is no such route.", "not_found"),
    405: ("This route does not have that method.", "method_not_allowed"),
    408: ("The request did not come in time.", "request_timeout"),
    431: ("The headers of the request are too large.", "headers_too_large"),
    501: ("Of transfer encodings only chunked is taken.", "not_implemented"),
    505: ("Only HTTP/1.1 and HTTP/1.0 are spoken here.", "http_version_not_supported"),
}


def error_headers(error: RouterError) -> list[tuple[bytes, bytes]]:
    """Returns the headers that say whether and when a client should retry."""
    headers = []
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if isinstance(error, UnsupportedEncoding):
        headers.append((b"accept-encoding", ", ".join(TAKEN).encode()))
    return headers


def error_response(error: RouterError, scope: Scope) -> Response:
    """Returns the response of an error, in the format of the route."""
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_bytes(error, scope), error.status, headers, "application/json")


def error_bytes(error: RouterError, scope: Scope) -> bytes:
    """Returns the body of an error, in the format of the route."""
    return _body(error.status, error.body()["error"], scope)


def _body(status: int, fields: Mapping[str, str | None], scope: Scope) -> bytes:
    if speaks_anthropic(scope):
        request_id = scope.get("state", {}).get("request_id", "")
        return orjson.dumps(error_body(status, fields["message"] or "", request_id))
    return orjson.dumps({"error": fields})


def install(app: FastAPI) -> None:
    """Makes every error of the application a response in OpenAI's format."""
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_query)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _bug)


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    return error_response(error, request.scope)


async def _bad_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    names = [str(part) for part in error.errors()[0]["loc"][1:2]]
    param = names[0][:80] if names else None
    return error_response(InvalidRequest(f"{param}: {error.errors()[0]['msg']}.", param=param), request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message, code = REASONS.get(error.status_code, ("The request was rejected.", "http_error"))
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    fields = {"message": message, "type": kind, "param": None, "code": code}
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if "allow" in headers:
        headers["allow"] = allow({name.strip() for name in headers["allow"].split(",")})
    body = _body(error.status_code, fields, request.scope)
    return Response(body, error.status_code, headers, "application/json")


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _bug(request: Request, _: Exception) -> Response:
    return error_response(RouterError(INTERNAL_ERROR), request.scope)
