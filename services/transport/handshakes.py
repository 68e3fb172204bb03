"""TLS handshakes of this process that have failed, by reason: counted where the native extension is, since gRPC says
of them only what it writes to stderr, a line for each and without a limit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.transport.native_extension import native, unavailable

log = structlog.get_logger(__name__)

LOG_S = 10.0  # between two log lines


class FailedHandshakes(Collector):
    """The metric, from counts by reason that only rise."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "caracal_tls_failed_handshakes",
            "TLS handshakes that have failed, with whoever connected to this process or whom it called",
            labels=["reason"],
        )
        for reason, count in self._counts().items():
            family.add_metric([reason], count)
        yield family


def watch_failed_handshakes(registry: CollectorRegistry, log_s: float = LOG_S) -> None:
    """Counts them from now on, and logs new ones at most every `log_s`. Without the extension gRPC's lines stay."""
    if unavailable():
        return
    module = native()
    module.count_failed_handshakes()
    registry.register(FailedHandshakes(module.failed_handshakes))
    threading.Thread(target=_log, args=(module.failed_handshakes, log_s), name="handshakes", daemon=True).start()


def _log(counts: Callable[[], Mapping[str, int]], log_s: float) -> None:
    logged: Counter[str] = Counter()
    pause = threading.Event()
    while not pause.wait(log_s):
        now = Counter(counts())
        if new := now - logged:
            logged = now
            log.warning("TLS handshakes have failed", reasons=dict(new), since_start=sum(now.values()))
