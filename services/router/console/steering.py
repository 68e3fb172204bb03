"""Who may change worker counts from the console: whoever shows the token, from the console's own page."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from services.router.requests.errors import InvalidRequest

MIN_TOKEN_CHARS = 16
SCHEME = "bearer "


class NotAllowed(InvalidRequest):
    """Expected: a request to change something, by somebody who may not."""

    status: ClassVar[int] = 403
    code = "not_allowed"


class NotFollowed(InvalidRequest):
    """Expected: no process of this cluster follows counts asked for."""

    status: ClassVar[int] = 409
    code = "not_followed"


@dataclass(frozen=True, slots=True)
class Steering:
    """The rules of one router. Without a `token` nobody may; `command` is what users run instead."""

    token: str = ""
    command: str = ""

    def check(self, headers: Headers) -> None:
        """Raises NotAllowed.

        The token comes in a header, never in a cookie, so a browser sends it for no page but ours; that it is ours is
        checked all the same.
        """
        if not self.token:
            raise NotAllowed("This console only watches: the router has no CARACAL_CONSOLE_TOKEN.")
        if not from_own_page(headers):
            raise NotAllowed("Only the console's own page may do this.")
        if not self.knows(headers):
            raise NotAllowed("The token is missing or wrong.")

    def knows(self, headers: Headers) -> bool:
        """Whether the request shows the token."""
        given = headers.get("authorization", "")
        if not self.token or given[: len(SCHEME)].lower() != SCHEME:
            return False
        return hmac.compare_digest(given[len(SCHEME) :].strip().encode(), self.token.encode())


def from_own_page(headers: Headers) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
