"""The cores that a thread runs on. Threads that it starts, OpenMP's among them, inherit them."""

from __future__ import annotations

import os

MOST_CORES = 1 << 16  # far above any machine's: a range is made into a set


def parse_cores(text: str) -> frozenset[int]:
    """The cores of a list like `0-3,6`; none for an empty one. Raises ValueError that says what is wrong."""
    cores: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        try:
            some = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise ValueError("must be a list of cores like 0-3,6") from None
        if some and some[-1] >= MOST_CORES:
            raise ValueError(f"no machine has core {some[-1]}")
        if not some:
            raise ValueError(f"{part.strip()} has no core")
        cores.update(some)
    return frozenset(cores)


def format_cores(cores: frozenset[int]) -> str:
    """The list that `parse_cores` reads."""
    return ",".join(map(str, sorted(cores)))


def own_cores() -> frozenset[int]:
    """The cores that the calling thread may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def run_on(cores: frozenset[int]) -> None:
    """Keeps the calling thread on these cores, where the system can do that; on any for an empty set."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
