"""The page's files: read once at the start, served with tags of their content.

Not Starlette's StaticFiles: its tags are made of time and size, and in images built without times two versions of a
file may have the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but our own files runs or is loaded. Trusted Types: no text can become HTML or script, not even by a mistake.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page."""

    body: bytes
    media_type: str
    tag: str


def load_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """Reads every file of the page, by name; the page itself also under the empty name."""
    files = {}
    for path in sorted(folder.iterdir()):
        body = path.read_bytes()
        files[path.name] = PageFile(body, MEDIA_TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:16])
    return files | {"": files[INDEX]}


def tagged(request: Request, body: bytes, media_type: str, tag: str) -> Response:
    """The body with its tag, or 304 to a browser that has it."""
    headers = HEADERS | {"etag": f'"{tag}"'}
    given = request.headers.get("if-none-match", "")
    if any(one.strip().removeprefix("W/") in (headers["etag"], "*") for one in given.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)
