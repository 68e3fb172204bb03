"""A worker's metrics, readiness and health over HTTP, on threads of their own: few, however many clients come."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer

from services.process.addresses import resolved
from services.process.exposition import metrics_page
from services.process.grpc_server import READY
from services.process.own_health import NAMES, OwnHealth

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

THREADS = 16  # requests at once
REQUEST_S = 2.0  # of a request, when others wait


class QuietHandler(WSGIRequestHandler):
    """Does not log requests: they are scrapes and probes."""

    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:
        pass


class MetricsServer(ThreadingWSGIServer):
    """Has at most THREADS requests open. One more ends the oldest if that has had its time, else it waits."""

    request_queue_size = 128

    def __init__(self, *args: Any, **options: Any) -> None:
        self._free = threading.Semaphore(THREADS)
        self._began: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        while not self._free.acquire(timeout=0.1):
            self._end_oldest()
        with self._lock:
            self._began[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._began.pop(request, None)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or is too slow, is no error of this process."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _end_oldest(self) -> None:
        with self._lock:
            request = min(self._began, key=self._began.__getitem__, default=None)
            if request is None or time.monotonic() - self._began[request] < REQUEST_S:
                return
            try:
                request.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and goes
            except OSError:
                return


def serve_metrics(
    host: str,
    port: int,
    registry: CollectorRegistry,
    not_ready: Callable[[], str] = lambda: "",
    health: OwnHealth | None = None,
    hold: Callable[[], str] = lambda: "",
) -> int:
    """Serves /metrics, /ready and, with `health`, /health/NAME on threads; returns the port (0 takes a free one).

    `not_ready` returns why the process is not ready, empty when it is; `hold` why probes are not to count it as ready
    although its server is. Raises OSError when the port is taken.
    """
    checks = {"/ready": not_ready}
    if health is not None:
        checks |= {f"/health/{name}": partial(health.fault, name) for name in NAMES}
        ready = checks[f"/health/{READY}"]
        checks[f"/health/{READY}"] = lambda: ready() or hold()

    def pages(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        check = checks.get(environ["PATH_INFO"])
        if check is None:
            page, content_type = metrics_page(registry, environ.get("HTTP_ACCEPT", ""))
            headers = [("Content-Type", content_type)]
            if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
                headers, page = [*headers, ("Content-Encoding", "gzip")], gzip.compress(page, 1)
            start_response("200 OK", headers)
            return [page]
        reason = check()
        start_response("503 Service Unavailable" if reason else "200 OK", [("Content-Type", "application/json")])
        body = {"status": "not ready", "reason": reason} if reason else {"status": "ready"}
        return [json.dumps(body).encode()]

    family, address = resolved(host, port)

    class Server(MetricsServer):
        address_family = family

    server = make_server(str(address[0]), port, pages, Server, QuietHandler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_port)
