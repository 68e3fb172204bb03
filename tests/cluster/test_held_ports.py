"""Ports that a cluster keeps for its processes while they start, die and start again."""

from __future__ import annotations

import errno
import socket

import pytest

from services.process.addresses import CannotListen, bound_socket, held_port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_held_port_is_for_a_server_and_nobody_else_finds_it(host: str) -> None:
    with held_port(host) as holder:
        port = holder.getsockname()[1]
        for _ in range(2):  # a server, and the one that is started in its place
            with pytest.raises(CannotListen) as raised, bound_socket(host, port, shared=False):
                pass
            assert raised.value.why == errno.EADDRINUSE
            with bound_socket(host, port) as server:
                server.listen()
                with socket.create_connection((host, port), timeout=5), server.accept()[0]:
                    pass


def test_nobody_answers_at_a_held_port() -> None:
    with held_port() as holder, pytest.raises(ConnectionRefusedError):
        socket.create_connection(holder.getsockname(), timeout=5)
