"""The counts of workers that users ask for, which a cluster of one machine follows."""

from __future__ import annotations

SCALED = ("attention", "expert")
MAX_WORKERS = 64  # of a role, as processes of one machine
MAX_DESIRED = 1_000_000  # more are asked for by nobody


def count_violation(role: str, count: int, least: int = 0) -> str:
    """Says why a cluster of one machine cannot have so many workers of a role; empty when it can."""
    if count < least:
        return f"{role}={count}: must be at least {least}"
    if count > MAX_WORKERS:
        return f"{role}={count}: at most {MAX_WORKERS} processes run on one machine"
    return ""
