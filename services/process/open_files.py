"""How many files and sockets a process may have open: the soft limit raised to the hard one, and what clients get."""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger(__name__)

MOST = 1 << 20  # some containers have no limit at all, and programs make tables of that size
FEW = 1024
OWN = 192  # of a router, for what is not a client of HTTP: gRPC, Redis, its own files


def raise_open_files() -> int:
    """Raises the soft limit to the hard one, for this process and its children, and logs it; returns the limit."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if before != resource.RLIM_INFINITY and before < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    limit = max(limit, before)
    if limit < FEW:
        log.warning("few files may be open: connections will have to wait. Raise `ulimit -Hn`", limit=limit)
    else:
        log.info("open files", limit=limit, before=before)
    return limit


def most_connections() -> int:
    """How many connections of HTTP clients a router may have under the limit in force."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if limit == resource.RLIM_INFINITY else max(limit // 4, limit - OWN)
