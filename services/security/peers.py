"""Who is at the other end of a call's connection, by the certificate that it has shown; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.security.calls import CALLERS, OURS
from services.security.identity import roles_of


def peer_fault(method: str, shown: Mapping[str, Iterable[bytes]], cluster: str) -> str:
    """Why a peer may not make a call; empty when it may. `shown`: gRPC's properties of the connection."""
    if not method.startswith(OURS):
        return ""
    uris = [one.decode(errors="replace") for one in shown.get("peer_uri", ())]
    roles = roles_of(uris, cluster)
    if not roles:
        return f"the peer's certificate is not of a role of cluster {cluster}"
    if roles.isdisjoint(CALLERS.get(method, ())):
        return f"{method} is not for the role {', '.join(sorted(roles))} of the peer's certificate"
    return ""
