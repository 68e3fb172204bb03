"""Metrics of the record: what was written, and what was lost."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class RecordMetrics:
    """The metrics of one router's record."""

    def __init__(self) -> None:
        self.written = Counter("caracal_record_requests", "Generations written to the record", registry=None)
        self.bytes = Counter("caracal_record_bytes", "Bytes written to the record", registry=None)
        self.dropped = Counter(
            "caracal_record_dropped",
            "Generations that are missing in the record: queue = the disk was too slow, disk = it took no more",
            ["reason"],
            registry=None,
        )

    def show(self, registry: CollectorRegistry) -> None:
        for counter in (self.written, self.bytes, self.dropped):
            registry.register(counter)
