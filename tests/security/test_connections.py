"""Connections with TLS are counted, and those on which somebody makes a call."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from services.security import connections
from services.security.connections import Connections


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
