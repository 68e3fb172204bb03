"""What the leader cannot do for want of room, as routers and workers share it: a hint, checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

LONGEST = 2000  # characters of a reason; longer ones are not ours


@dataclass(frozen=True, slots=True)
class CapacityShortage:
    """Why experts have no room, and how many of them each worker would take away that asked to leave.

    `lost`: how many nobody holds already, so that requests wait for them.
    """

    reason: str
    workers: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0

    @classmethod
    def from_json(cls, text: str | bytes) -> CapacityShortage:
        """Raises ValueError when the text is not a shortage."""
        raw = json.loads(text)
        if not isinstance(raw, dict) or not isinstance(raw.get("reason"), str) or len(raw["reason"]) > LONGEST:
            raise ValueError("no reason in words")
        workers = raw.get("workers", {})
        if not isinstance(workers, dict) or not all(type(count) is int and count >= 0 for count in workers.values()):
            raise ValueError("workers are not counted")
        lost = raw.get("lost", 0)
        if type(lost) is not int or lost < 0:
            raise ValueError("what is lost is not counted")
        return cls(raw["reason"], workers, lost)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        kept = ", ".join(f"{worker_id} ({_experts(count)})" for worker_id, count in self.workers.items())
        verb = "is" if self.lost == 1 else "are"
        return (
            (f"{_experts(self.lost)} {verb} loaded on no worker, requests wait for them: " if self.lost else "")
            + self.reason
            + (f". Until then these must not go: {kept}" if kept else "")
        )


def waiting_experts(count: int, reason: str = "") -> str:
    """What is said of a worker that may not go: by itself, and by the leader about it."""
    verb = "has" if count == 1 else "have"
    return f"{_experts(count)} here {verb} no other place yet" + (f": {reason}" if reason else "")


def _experts(count: int) -> str:
    return f"{count} expert" if count == 1 else f"{count} experts"
