"""How long a fault may make the longest pause of a stream, beyond what pauses last without any fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faults.outcome import quantile


@dataclass(frozen=True, slots=True)
class Goal:
    """Seconds that are added, at most: in 99 of 100 faults, and in any; None where nothing is said of that."""

    p99: float | None = None
    longest: float | None = None

    def __str__(self) -> str:
        parts = [("p99", self.p99), ("longest", self.longest)]
        return ", ".join(f"{name} {seconds:g}" for name, seconds in parts if seconds is not None)

    def is_met(self, stalls: Sequence[float], calm: float) -> bool:
        """`calm`: the pause that there is without a fault."""
        found = ((quantile(stalls, 0.99), self.p99), (max(stalls), self.longest))
        return all(goal is None or stall - calm <= goal for stall, goal in found)


NOTICED = Goal(p99=0.1, longest=0.3)
CUT = Goal(longest=3.0)
STILL = Goal(longest=2.0)
# By the kind of the fault and whom it hits. What a whole role costs is the time of its restart; of the faults of Redis
# and of the connections of clients only that nothing is lost is asked for.
GOALS = {
    ("killed", "expert"): NOTICED,
    ("killed", "attention"): Goal(longest=0.5),
    ("unplugged", "expert"): CUT,
    ("unplugged", "attention"): CUT,
    ("machine unplugged", "machine"): CUT,
} | {
    (kind, role): goal
    for role in ("attention", "expert")
    for kind, goal in (
        ("stopped", NOTICED),
        ("blackhole", NOTICED),
        ("one-way", NOTICED),
        ("link +500 ms", STILL),
        ("link 100 kB/s", STILL),
        ("thread frozen", STILL),
    )
}
