"""What a client gets that has no key, one that may not do this, or one that has used up its quota."""

from __future__ import annotations

import math

from services.router.access.quotas import Excess
from services.router.requests.errors import RouterError, TooManyRequests


class Unauthorized(RouterError):
    """Expected: no key that this router knows. The same words for every cause, which are nobody's business."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    should_retry = False

    def __init__(self) -> None:
        super().__init__("This needs a valid API key: Authorization: Bearer KEY, or x-api-key: KEY.")


class Forbidden(RouterError):
    """Expected: the key is valid, and may not do this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"
    should_retry = False

    def __init__(self) -> None:
        super().__init__("This API key may not use this route: it needs `admin = true`.")


NAMES = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "concurrent": "open requests",
}


def quota_exceeded(excess: Excess, tokens: int = 0) -> RouterError:
    """Returns the error of a request that is too much for its key; `tokens`: what it asks for."""
    limit = f"{excess.most:g} {NAMES[excess.limit]}"
    if excess.retry_s is None:
        error = TooManyRequests(f"The request may come to {tokens} tokens, and its API key has {limit}.", None)
        error.should_retry = False
        return error
    return TooManyRequests(f"This API key has used up its {limit}.", max(1, math.ceil(excess.retry_s)))
