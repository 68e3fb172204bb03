"""Logs of a process: structlog on stderr, JSON lines, pretty on a terminal. Its metrics: `metrics_server.py`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.process.tracing import add_trace_ids

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
    for noisy in ("asyncio", "uvicorn.access", "httpx", "httpx2"):
        logging.getLogger(noisy).setLevel("WARNING")


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
