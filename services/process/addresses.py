"""Hosts and ports: the one way to write them, to listen on them, and to name a host that listens everywhere."""

from __future__ import annotations

import errno
import random
import socket
from typing import Any

PORTS = range(20_000, 32_000)  # below those that the system gives to whoever connects
TRIES = 20
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class CannotListen(OSError):
    """A host or port that cannot be listened on: the message names both. `why`: the system's number of the error."""

    def __init__(self, message: str, why: int | None) -> None:
        super().__init__(message)
        self.why = why


def bare(host: str) -> str:
    """The host without the brackets that an IPv6 address has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def authority(host: str, port: int | str) -> str:
    """`host:port` as URLs and gRPC write it: an IPv6 address in brackets."""
    host = bare(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def loopback_of(host: str) -> str:
    """The loopback address of the same family."""
    return "::1" if ":" in host else "127.0.0.1"


def on_this_machine(host: str) -> str:
    """Where processes of this machine reach a server that listens on `host`: loopback, if it listens everywhere."""
    return EVERYWHERE.get(bare(host), bare(host))


def resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and address to listen on; of a name that has addresses of both families, the IPv4 one. Raises OSError."""
    found = socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def bound_socket(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A TCP socket bound to `host`; `::` takes IPv4 as well, where the system lets it.

    `shared`: also where another such socket is bound that does not listen, or where connections have just ended.
    Raises CannotListen.
    """
    try:
        family, address = resolved(host, port)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotListen(f"cannot listen on {authority(host, port)}: {error.strerror}", error.errno) from None
    return listener


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on or holds, below those that the system gives to whoever connects.

    Raises CannotListen.
    """
    with held_port(host) as holder:
        return int(holder.getsockname()[1])


def held_port(host: str = "127.0.0.1") -> socket.socket:
    """Holds such a port until the socket is closed: others who look for one do not find it, and a server that sets
    SO_REUSEADDR, as Redis and the gateway do, can listen on it. Raises CannotListen.

    Without it two servers that start at the same time can be given one port, and both bind it: the second then fails
    when it listens.
    """
    for port in [*random.sample(PORTS, TRIES), 0]:
        try:
            holder = bound_socket(host, port, shared=False)
        except CannotListen as error:
            if error.why != errno.EADDRINUSE or port == 0:
                raise
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after it was bound: nobody else held it then
        return holder
    raise AssertionError("the system gives a port, or says why not")
