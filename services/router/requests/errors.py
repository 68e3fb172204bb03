"""The errors that a client can get, with their HTTP status.

RouterError
├── InvalidRequest            the request is invalid                                     400
│   ├── ModelNotFound         it names another model                                     404
│   ├── BodyTooLarge          its body has too many bytes                                413
│   ├── UnsupportedMediaType  its body is not JSON, or is compressed                     415
│   ├── ContextTooLong        the prompt, or prompt and max_tokens, do not fit           400
│   └── CannotResume          it says that it goes on, and not with this answer          409
├── Unauthorized              it has no valid API key (access/errors.py)                 401
├── Forbidden                 its API key may not do this (access/errors.py)             403
├── TooManyRequests           its caller has more than its share, or its key's quota     429
├── Overloaded                the cluster has as many requests as it can serve           503
├── NoWorker                  no worker can serve it now; worth retrying                 503
├── Replaced                  an upgrade has replaced the workers it began on            503
├── ShuttingDown              this router is shutting down                               503
├── NoProgress                no token and no part of its prompt for too long            504
├── Quarantined               several workers in a row failed on it; not worth retrying  500
└── RejectedByWorker          a worker rejected this router's call: a bug here           500
"""

from __future__ import annotations

import re
from typing import ClassVar

from services.router.requests.context_limit import ContextLimit


class RouterError(Exception):
    """A request that ends with an error. `message` is for the client: no paths, no addresses, no long values."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    retry_after_s: int | None = None
    should_retry: bool | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def body(self) -> dict[str, dict[str, str | None]]:
        """Returns the error's JSON body in OpenAI's format."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(RouterError, ValueError):
    """Expected: the request is invalid."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ModelNotFound(InvalidRequest):
    """Expected: the request names another model than the served one."""

    status = 404
    code = "model_not_found"


class BodyTooLarge(InvalidRequest):
    """Expected: the body has more bytes than a request may have."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    """Expected: the body is not JSON, or has a content encoding."""

    status = 415
    code = "unsupported_media_type"


class ContextTooLong(InvalidRequest):
    """Expected: more tokens than the context takes; the message has the counts."""

    code = "context_length_exceeded"

    def __init__(self, prompt: int, wanted: int, limit: ContextLimit, *, param: str, at_least: bool = False) -> None:
        asked = f"{prompt} in the prompt" + (f" and {wanted} to generate" if wanted else "")
        total = f"at least {prompt}" if at_least else f"{prompt + wanted}"
        counts = f"This model's maximum context length is {limit.tokens} tokens, but {total} were requested ({asked})."
        super().__init__(f"{counts} {limit.reason}".rstrip(), param=param)


class CannotResume(InvalidRequest):
    """Expected: Last-Event-ID belongs to another request, or to an answer that cannot be made again."""

    status = 409
    code = "cannot_resume"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="Last-Event-ID")


class TooManyRequests(RouterError):
    """Expected: the caller has as many open requests as one caller may have."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(RouterError):
    """Expected: the cluster has as many requests as it can serve in time."""

    status = 503
    type = "service_unavailable"
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoWorker(RouterError):
    """No worker can serve the request now."""

    status = 503
    type = "service_unavailable"
    code = "no_worker"
    retry_after_s = 1


class Replaced(RouterError):
    """An answer that has begun cannot go on: no worker is left that would give the same bits. A new one can begin."""

    status = 503
    type = "service_unavailable"
    code = "replaced"
    retry_after_s = 1


class ShuttingDown(RouterError):
    """This router is shutting down; another one may serve the request."""

    status = 503
    type = "service_unavailable"
    code = "shutting_down"
    retry_after_s = 1


class NoProgress(RouterError):
    """The request got no token, and no part of its prompt was computed, for too long."""

    status = 504
    type = "timeout_error"
    code = "no_progress"
    should_retry = False


class Quarantined(RouterError):
    """Several workers in a row failed on this request without a new token."""

    code = "request_quarantined"
    should_retry = False


class RejectedByWorker(RouterError):
    """A worker rejected a call that this router should never have sent."""

    code = "rejected_by_worker"
    should_retry = False


GRAMMAR, LINE = "grammar: ", re.compile(r"line \d+: ")  # how workers begin what they say of a grammar


def rejection_of(detail: str, grammar_field: str, *, lines: bool) -> InvalidRequest:
    """Returns the error of a request that a worker has rejected. `lines`: the field has the grammar's own lines."""
    if not grammar_field or not detail.startswith(GRAMMAR):
        return InvalidRequest(f"The request was rejected: {detail}")
    reason = detail.removeprefix(GRAMMAR)
    place = None if lines else LINE.match(reason)
    return InvalidRequest(f"{grammar_field}: {reason[place.end() if place else 0 :]}.", param=grammar_field)
