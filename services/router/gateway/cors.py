"""Which web pages may call the API from a browser: none, unless origins are set."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s,]+")
SHOWN = ("x-request-id", "request-id", "retry-after", "x-should-retry")  # of an answer's headers, to a page's scripts
PREFLIGHT_S = 600


def parse_origins(text: str) -> tuple[str, ...]:
    """The origins of a list with commas. Raises ValueError that says what is wrong."""
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    if wrong := [one for one in origins if not ORIGIN.fullmatch(one)]:
        raise ValueError(f"{wrong[0][:80]!r} is not an origin like https://chat.example.org, or *")
    return origins


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application for pages of those origins. Credentials stay out: API keys come in a header, never in cookies."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE", "OPTIONS"),
        allow_headers=("*",),
        expose_headers=SHOWN,
        max_age=PREFLIGHT_S,
    )
