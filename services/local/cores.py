"""Chooses the cores that a role's workers compute on.

Without pinning, the scheduler puts two processes that wake each other onto one core: an attention and an expert worker
then take turns instead of overlapping (figures in docs/decisions).
"""

from __future__ import annotations

from collections.abc import Sequence


def cores_of(role: str, attention: int, expert: int, cores: Sequence[int]) -> frozenset[int]:
    """Gives attention workers the first cores and expert workers the rest, in proportion to their numbers.

    With fewer cores than workers, or for another role, it is all cores.
    """
    if role not in ("attention", "expert") or len(cores) < attention + expert:
        return frozenset(cores)
    first = max(1, min(len(cores) - 1, round(len(cores) * attention / (attention + expert))))
    return frozenset(cores[:first] if role == "attention" else cores[first:])
