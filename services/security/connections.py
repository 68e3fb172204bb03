"""Counts connections to a server with TLS, and those on which a call was made."""

from __future__ import annotations

import threading
from collections import OrderedDict

from prometheus_client import CollectorRegistry, Counter

MAX_PEERS = 16384


class Connections:
    """The connections of one server. Any thread may use it."""

    def __init__(self) -> None:
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

    def show(self, registry: CollectorRegistry) -> None:
        """Adds the counters to the registry."""
        registry.register(self._opened)
        registry.register(self._used)

    def opened(self) -> None:
        """Notes a connection of which nothing is known yet."""
        self._opened.inc()

    def used(self, peer: str) -> None:
        """Notes a call on the connection of a peer, which gRPC names by its address and port."""
        with self._lock:
            if peer in self._peers:
                return
            self._peers[peer] = None
            if len(self._peers) > MAX_PEERS:
                self._peers.popitem(last=False)
        self._used.inc()
