"""Which cores a role's workers run on. Pure.

Left to itself the scheduler puts two processes that wake each other onto one core: an attention and an expert worker
then take turns instead of overlapping (figures in docs/decisions).
"""

from __future__ import annotations

from collections.abc import Sequence


def cores_of(role: str, attention: int, expert: int, cores: Sequence[int]) -> frozenset[int]:
    """Attention workers get the first cores, expert workers the rest, by their numbers; everybody all, if few."""
    if role not in ("attention", "expert") or len(cores) < attention + expert:
        return frozenset(cores)
    first = max(1, min(len(cores) - 1, round(len(cores) * attention / (attention + expert))))
    return frozenset(cores[:first] if role == "attention" else cores[first:])
