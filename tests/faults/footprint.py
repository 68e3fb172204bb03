"""What processes hold, and what of it they have not given back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# More than before that is no leak: connections that are made again when they are needed, arenas of the allocator.
ROOM = {"descriptors": 16, "threads": 8, "memory, MB": 150, "connections": 8, "caracal_event_loop_tasks": 16}


@dataclass(frozen=True)
class Footprint:
    """Of one process. `held`: descriptors, threads, connections, sequences, sessions and the like, by name."""

    held: Mapping[str, float]


def leaks(before: Mapping[str, Footprint], after: Mapping[str, Footprint]) -> list[str]:
    """What processes hold now and did not before, by the node's name. A process that was started again, too, may hold
    no more than the one before did."""
    return [
        f"{node}: {what} {before[node].held[what]:g}, then {now:g}"
        for node, footprint in after.items()
        for what, now in footprint.held.items()
        if now > before[node].held[what] + ROOM.get(what, 0)
    ]
