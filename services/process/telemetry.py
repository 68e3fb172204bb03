"""Logs and metrics of a process: structlog on stderr (JSON lines, pretty on a terminal), Prometheus over HTTP."""

from __future__ import annotations

import gzip
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import ThreadingWSGIServer

from services.process.addresses import resolved
from services.process.exposition import metrics_page
from services.process.tracing import add_trace_ids

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = structlog.get_logger(__name__)


def configure_logging(role: str, worker_id: str = "", level: str = "INFO") -> None:
    """One format for everything the process logs, libraries included; on stderr. `level`: of CARACAL_LOG_LEVEL."""
    who = {"role": role} | ({"worker_id": worker_id} if worker_id else {})

    def add_identity(_: Any, __: str, event: Any) -> Any:
        return {**event, **who}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", key="ts"),
        add_identity,
        add_trace_ids,
    ]
    terminal = sys.stderr.isatty()
    render: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    last += [] if terminal else [structlog.processors.format_exc_info]
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*last, render]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("asyncio", "uvicorn.access", "httpx"):
        logging.getLogger(noisy).setLevel("WARNING")


class QuietHandler(WSGIRequestHandler):
    """Does not log requests: they are scrapes and probes."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve_metrics(host: str, port: int, registry: CollectorRegistry, not_ready: Callable[[], str] = lambda: "") -> int:
    """Serves /metrics and /ready on its own threads; returns the port (0 takes a free one).

    `not_ready` returns why the process is not ready, empty when it is. Raises OSError when the port is taken.
    """

    def pages(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/ready":
            page, content_type = metrics_page(registry, environ.get("HTTP_ACCEPT", ""))
            headers = [("Content-Type", content_type)]
            if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
                headers, page = [*headers, ("Content-Encoding", "gzip")], gzip.compress(page, 1)
            start_response("200 OK", headers)
            return [page]
        reason = not_ready()
        start_response("503 Service Unavailable" if reason else "200 OK", [("Content-Type", "application/json")])
        body = {"status": "not ready", "reason": reason} if reason else {"status": "ready"}
        return [json.dumps(body).encode()]

    family, address = resolved(host, port)

    class Server(ThreadingWSGIServer):
        address_family = family

    server = make_server(str(address[0]), port, pages, Server, QuietHandler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_port)


def show_redis(registry: CollectorRegistry, reachable: Callable[[], bool]) -> None:
    """Adds the metric caracal_redis_up; `reachable` is called at every scrape and must not call Redis."""
    gauge = Gauge("caracal_redis_up", "Whether the lease was renewed at the last try, 0 or 1", registry=registry)
    gauge.set_function(lambda: float(reachable()))


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `report(done, total)`: a bar on a terminal, a log line every two seconds elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    logged_s = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal logged_s
        if done == total or time.monotonic() - logged_s > 2:
            logged_s = time.monotonic()
            log.info(label, done=done, total=total)

    yield report
