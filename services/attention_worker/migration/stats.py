"""What this worker has sent to others of its cached pages, and what it has got from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

# How the pages of one sequence were not, or not all, taken over; what did not come is computed.
Fallback = Literal[
    "faster to compute",  # or so it was predicted
    "slow",  # what was left would have taken longer than computing it
    "not there",  # the other worker has them no more
    "unreachable",
    "rejected",
    "damaged",  # the bytes are not those that were sent
    "no room",
    "failed",
]
FALLBACKS: tuple[Fallback, ...] = get_args(Fallback)


@dataclass(slots=True)
class MigrationStats:
    """Sums since the worker started."""

    pages_sent: int = 0
    bytes_sent: int = 0
    pages_received: int = 0
    bytes_received: int = 0
    migrated: int = 0  # sequences whose pages have all come
    fallbacks: Counter[Fallback] = field(default_factory=Counter)
