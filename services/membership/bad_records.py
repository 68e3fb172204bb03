"""Records in Redis that are ignored, each with its reason: one log line, not one for each time it is read."""

from __future__ import annotations

import structlog
from prometheus_client import CollectorRegistry, Counter

log = structlog.get_logger(__name__)

MOST = 1000  # that are remembered and logged; what writes more of them is seen by the metric


class BadRecords:
    """What one process has ignored. It is used on one event loop."""

    def __init__(self) -> None:
        self._noted: set[tuple[str, str]] = set()
        self._counter = Counter(
            "caracal_redis_bad_records",
            "Records in Redis that were ignored, each counted once for each reason",
            ["kind"],
            registry=None,
        )
        self.last = ""  # the newest, in words; empty while there was none

    @property
    def count(self) -> int:
        """How many were noted, as far as they are remembered."""
        return len(self._noted)

    def show(self, registry: CollectorRegistry) -> None:
        """Adds the counter to the registry."""
        registry.register(self._counter)

    def note(self, kind: str, name: str, reason: str) -> None:
        """Takes a record that is ignored. `kind`: worker, table, leader, ..., `name`: its key."""
        shown, why = name.encode(errors="backslashreplace").decode()[:120], reason[:200]
        if (shown, why) in self._noted or len(self._noted) > MOST:
            return
        self._noted.add((shown, why))
        self._counter.labels(kind).inc()
        if len(self._noted) > MOST:
            log.warning("too many bad records in redis: further ones are ignored without a log line")
            return
        self.last = f"{shown}: {why}"
        log.warning("a record in redis is ignored", kind=kind, record=shown, reason=why)
