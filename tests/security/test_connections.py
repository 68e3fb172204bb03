"""Connections with TLS on which nobody makes a call are counted, and logged now and then."""

from __future__ import annotations

import time

import structlog
from prometheus_client import CollectorRegistry

from services.security import connections
from services.security.connections import Connections

LOG_S = 0.05


def test_a_connection_is_used_once_however_many_calls_it_has() -> None:
    registry, one = CollectorRegistry(), Connections()
    one.show(registry)
    for _ in range(3):
        one.opened()
    for peer in ("ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2", "ipv4:127.0.0.1:1"):
        one.used(peer)
    assert registry.get_sample_value("caracal_tls_connections_total") == 3
    assert registry.get_sample_value("caracal_tls_connections_with_calls_total") == 2


def test_what_is_remembered_of_peers_is_bounded() -> None:
    one = Connections()
    for number in range(connections.MAX_PEERS + 10):
        one.used(str(number))
    assert len(one._peers) == connections.MAX_PEERS


def test_unused_connections_are_logged_at_intervals() -> None:
    one = Connections(LOG_S)
    with structlog.testing.capture_logs() as logs:
        for number in range(40):  # one of two is used, soon after it was opened
            one.opened()
            if number % 2:
                one.used(str(number))
        assert not logs, "they may be used yet"
        for _ in range(3):
            time.sleep(1.2 * LOG_S)
            one.opened()
            one.used(f"later {time.monotonic()}")
    assert sum(entry["connections"] for entry in logs) == 20
    assert len(logs) <= 2
