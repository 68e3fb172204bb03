"""The counts of workers that users ask for, which a cluster of one machine follows."""

from __future__ import annotations

SCALED = ("attention", "expert")
MAX_WORKERS = 64  # of a role, as processes of one machine
MAX_DESIRED = 1_000_000  # more are asked for by nobody


def count_violation(role: str, count: int) -> str:
    """Says why a cluster of one machine cannot have so many workers of a role; empty when it can."""
    if count < 1:
        return f"{role}={count}: a cluster needs at least one {role} worker; Ctrl-C stops it whole"
    if count > MAX_WORKERS:
        return f"{role}={count}: at most {MAX_WORKERS} processes run on one machine"
    return ""
