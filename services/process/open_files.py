"""How many files and sockets a process may have open: the soft limit raised to the hard one, and what clients get."""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger(__name__)

MOST = 1 << 20  # some containers have no limit at all, and programs make tables of that size
FEW = 1024
OWN = 256  # of a router, for what is not a client of the API over HTTP: the admin port, gRPC, Redis, its own files


def raise_open_files() -> None:
    """Raises the soft limit to the hard one, for this process and its children; logs when that is little."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if open_files() < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if open_files() < FEW:
        log.warning("few files may be open, so connections may have to wait: raise `ulimit -Hn`", limit=open_files())


def open_files() -> int:
    """The limit in force."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else soft


def most_connections(limit: int) -> int:
    """How many connections of HTTP clients a router may have under that limit."""
    return max(limit // 4, limit - OWN)
