"""Refuses whole requests straight from a connection's bytes: the way through the application costs ten times as much,
and a router that is asked for ten times what it can do would do nothing but refuse.

Only what is plain is looked at: a POST to a route that admission counts, with a short body that came with its head.
Everything else takes the long way, where the same question is asked.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from http import HTTPStatus

from prometheus_client import Counter

from services.router.access.control import Access, presented
from services.router.gateway.errors import error_bytes, error_headers
from services.router.gateway.middleware import REQUEST_ID, id_headers
from services.router.requests.admission import Admission
from services.router.requests.callers import Caller, caller_at
from services.router.requests.errors import RouterError
from services.router.requests.metrics import RequestMetrics

HEAD_BYTES = 8 << 10
_REQUEST = re.compile(rb"POST (/[\w./-]*) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_ID = re.compile(rb"\r\nx-request-id:[ \t]*([A-Za-z0-9._-]{1,128})[ \t]*\r\n", re.IGNORECASE)
_KEY = re.compile(rb"\r\n(authorization|x-api-key):([^\r\n]*)", re.IGNORECASE)
# What changes where the body ends, who sends it, or how the connection goes on.
_ODD = re.compile(
    rb"\r\n(?:(?:transfer-encoding|expect|upgrade|content-encoding|forwarded|x-forwarded-[a-z]+):"
    rb"|connection:(?![ \t]*keep-alive[ \t]*\r\n))",
    re.IGNORECASE,
)


class AdmissionGate:
    """Knows admission and the paths that it counts."""

    def __init__(self, admission: Admission, access: Access, metrics: RequestMetrics, paths: Collection[str]) -> None:
        self._admission, self._access, self._metrics = admission, access, metrics
        self._paths = {path.encode(): path for path in paths}
        self._counters: dict[tuple[str, int], Counter] = {}

    def rejection(self, data: bytes, host: str) -> bytes | None:
        """Returns the whole answer to a request that is refused now; None for what has to take the long way."""
        if not self._admission.pressed:
            return None
        request = _REQUEST.match(data)
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES)
        path = self._paths.get(request[1]) if request else None
        if path is None or end < 0:
            return None
        head = data[: end + 2]
        length = _LENGTH.findall(head)
        if len(length) != 1 or _ODD.search(head) or len(data) != end + 4 + int(length[0]):
            return None
        caller = self._caller(head, host)
        if caller is None:
            return None
        error = self._admission.rejection(caller, int(length[0]))
        if error is None:
            return None
        counter = self._counters.get((path, error.status))
        if counter is None:
            counter = self._counters[path, error.status] = self._metrics.http("POST", path, error.status)
        counter.inc()
        return answer(error, path, _ID.search(head))

    def _caller(self, head: bytes, host: str) -> Caller | None:
        """Who sends a request; None where that is not plain."""
        if not self._access.on:
            return caller_at(host)
        headers = ((name.lower(), value) for name, value in _KEY.findall(head))
        key = self._access.find(presented(headers))
        return self._access.caller(key) if key else None


def answer(error: RouterError, path: str, given: re.Match[bytes] | None) -> bytes:
    """The bytes of an error's answer. `given`: the client's own request id."""
    request_id = given[1].decode() if given and REQUEST_ID.fullmatch(given[1].decode()) else uuid.uuid4().hex
    scope = {"path": path, "state": {"request_id": request_id}}
    body = error_bytes(error, scope)
    headers = [*error_headers(error), *((name, request_id.encode()) for name in id_headers(scope))]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)
