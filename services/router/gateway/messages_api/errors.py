"""Errors in Anthropic's format, for the routes of its API."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def speaks_anthropic(scope: Scope) -> bool:
    """Whether a request is one of Anthropic's API: of its routes, or about the models with its header."""
    path = str(scope["path"])
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return True
    models = path == "/v1/models" or path.startswith("/v1/models/")
    return models and any(name == b"anthropic-version" for name, _ in scope["headers"])


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """Returns an error's JSON body."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
