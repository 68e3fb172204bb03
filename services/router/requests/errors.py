"""What can go wrong with a request, as its client sees it.

RouterError
├── InvalidRequest         the caller's mistake                                   4xx
│   ├── ModelNotFound      404
│   └── ContextTooLong     the prompt, or prompt and max_tokens, cannot fit        400
├── NoWorker               nobody can serve it now; worth trying again             503
├── ShuttingDown           this router is leaving                                  503
├── DeadlineExceeded       the request's time is up                                504
├── Quarantined            it took its workers down with it; not worth trying again 500
└── WorkerRefused          a worker does not understand this router: our bug       500
"""

from __future__ import annotations

from typing import ClassVar


class RouterError(Exception):
    """An ending with an error. `message` is meant for the client: no paths, no addresses, no long values."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    retry_after_s: ClassVar[int | None] = None
    should_retry: ClassVar[bool | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as OpenAI's clients read it."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(RouterError, ValueError):
    """Expected: the caller's mistake. `status` may be narrowed per instance (404, 405, 413, 415)."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ModelNotFound(InvalidRequest):
    """Expected: another model's name."""

    status = 404
    code = "model_not_found"


class BodyTooLarge(InvalidRequest):
    """Expected: more bytes than a request may have."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    """Expected: not JSON, or encoded."""

    status = 415
    code = "unsupported_media_type"


class ContextTooLong(InvalidRequest):
    """Expected: more tokens than the context holds; the message carries the counts."""

    code = "context_length_exceeded"

    def __init__(self, prompt: int, wanted: int, limit: int, *, param: str, at_least: bool = False) -> None:
        asked = f"{prompt} in the prompt" + (f" and {wanted} to generate" if wanted else "")
        total = f"at least {prompt}" if at_least else f"{prompt + wanted}"
        super().__init__(
            f"This model's context length is {limit} tokens, but {total} were requested ({asked}).", param=param
        )


class NoWorker(RouterError):
    """Nobody can serve the request now."""

    status = 503
    type = "service_unavailable"
    code = "no_worker"
    retry_after_s = 1


class ShuttingDown(RouterError):
    """This router is leaving; another one may serve the request."""

    status = 503
    type = "service_unavailable"
    code = "shutting_down"
    retry_after_s = 1


class DeadlineExceeded(RouterError):
    """The request's time is up."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    should_retry = False


class Quarantined(RouterError):
    """Several workers in a row failed on this request without a new token."""

    code = "request_quarantined"
    should_retry = False


class WorkerRefused(RouterError):
    """A worker refused what this router should never have sent."""

    code = "worker_refused"
    should_retry = False
