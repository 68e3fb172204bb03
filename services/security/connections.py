"""Counts connections to a server with TLS, and those on which a call was made: the others had no good certificate.

gRPC says nothing of a handshake that fails, but it does ask for the certificate before each.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

import structlog
from prometheus_client import CollectorRegistry, Counter

log = structlog.get_logger(__name__)

LOG_S = 10.0  # between two log lines; a connection without a call for so long is one of those
MAX_PEERS = 16384


class Connections:
    """The connections of one server. Any thread may use it."""

    def __init__(self, log_s: float = LOG_S) -> None:
        self._log_s = log_s
        self._opened = Counter(
            "caracal_tls_connections",
            "Connections to the gRPC port with TLS, with a good certificate or not",
            registry=None,
        )
        self._used = Counter(
            "caracal_tls_connections_with_calls",
            "Those on which a call was made: their peers have shown a good certificate",
            registry=None,
        )
        self._lock = threading.Lock()
        self._peers: OrderedDict[str, None] = OrderedDict()
        self._unused = 0  # those opened minus those used
        self._unused_before, self._logged = 0, 0  # at the last look, and in log lines
        self._look_at = time.monotonic() + log_s

    def show(self, registry: CollectorRegistry) -> None:
        """Adds the counters to the registry."""
        registry.register(self._opened)
        registry.register(self._used)

    def opened(self) -> None:
        """Notes a connection of which nothing is known yet."""
        self._opened.inc()
        now = time.monotonic()
        with self._lock:
            self._unused += 1
            if now < self._look_at:
                return
            self._look_at = now + self._log_s
            unused, self._unused_before = min(self._unused - 1, self._unused_before), self._unused
            unlogged, self._logged = unused - self._logged, max(unused, self._logged)
        if unlogged > 0:
            log.info(
                "connections on which no call was made: without a good certificate, or tries", connections=unlogged
            )

    def used(self, peer: str) -> None:
        """Notes a call on the connection of a peer, which gRPC names by its address and port."""
        with self._lock:
            if peer in self._peers:
                return
            self._peers[peer] = None
            self._unused -= 1
            if len(self._peers) > MAX_PEERS:
                self._peers.popitem(last=False)
        self._used.inc()
