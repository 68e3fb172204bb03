"""Who a process is by its certificate: names in it that say the cluster and the role; pure.

The URI spiffe://caracal/CLUSTER/ROLE says which calls its holder may make. The DNS name ROLE.CLUSTER.caracal.internal,
which is looked up nowhere, is what callers expect of whom they connect to, at whatever address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ROUTER, ATTENTION, EXPERT = "router", "attention", "expert"
ROLES = (ROUTER, ATTENTION, EXPERT)

MAX_CLUSTER = 128  # names in DNS have up to 253

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def cluster_violation(cluster: str) -> str:
    """Why certificates cannot name a cluster; empty when they can."""
    if len(cluster) <= MAX_CLUSTER and all(_LABEL.fullmatch(part) for part in cluster.split(".")):
        return ""
    return (
        f"with TLS it is part of names in certificates: up to {MAX_CLUSTER} of a-z, 0-9, - and ., between dots up to 63"
        " with no - at either end"
    )


def uri(cluster: str, role: str) -> str:
    """The URI in the certificate of a role."""
    return f"spiffe://caracal/{cluster}/{role}"


def server_name(cluster: str, role: str) -> str:
    """The DNS name in the certificate of a role."""
    return f"{role}.{cluster}.caracal.internal"


def roles_of(uris: Iterable[str], cluster: str) -> frozenset[str]:
    """The roles in this cluster that a certificate with these URIs has."""
    known = {uri(cluster, role): role for role in ROLES}
    return frozenset(known[one] for one in uris if one in known)
