"""What every route has besides its own methods: HEAD wherever GET is, and OPTIONS; and requests that no route takes."""

from __future__ import annotations

from starlette.datastructures import URL
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from services.router.requests.errors import InvalidRequest

MAX_TARGET_BYTES = 16 << 10


class TargetTooLong(InvalidRequest):
    """Expected: a longer path and query than a request may have."""

    status = 414
    code = "uri_too_long"


def plain(scope: Scope) -> Scope:
    """The scope with the path alone of a target that is a whole URL, as proxies send it."""
    path = scope["path"]
    return {**scope, "path": URL(path).path or "/"} if path.lower().startswith(("http://", "https://")) else scope


def routed(scope: Scope) -> Scope:
    """The scope, a plain one, as routes are to see it: HEAD as GET, since the server leaves the body out.

    Raises InvalidRequest.
    """
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        raise TargetTooLong(f"At most {MAX_TARGET_BYTES} bytes of path and query.")
    names = [name for name, _ in scope["headers"]]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise InvalidRequest("Content-Length and Transfer-Encoding exclude each other.", code="bad_request")
    path = scope["path"]
    if not path.startswith("/") and not (scope["method"] == "OPTIONS" and path == "*"):
        raise InvalidRequest("The target of the request must be a path.", code="bad_request")
    return {**scope, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}


def options(scope: Scope) -> Response | None:
    """The answer to OPTIONS; None where there is no route. Needs the application in the scope."""
    methods: set[str] = set()
    for route in scope["app"].routes:
        if scope["path"] == "*" or route.matches(scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or {"GET"}  # a folder of files names none
    if not methods:
        return None
    return Response(status_code=204, headers={"allow": allow(methods)})


def allow(methods: set[str]) -> str:
    """The header Allow of a route with those methods."""
    return ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
