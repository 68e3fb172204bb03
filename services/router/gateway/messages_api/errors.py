"""Errors in Anthropic's format, for the routes of its API."""

from __future__ import annotations

from typing import Any

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_messages_route(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """Returns an error's JSON body."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
