"""The leader's capacity shortage as routers and workers share it through Redis: a hint, checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from services.membership.checks import MAX_COUNT, is_text

MAX_REASON_CHARS = 2000  # no router writes a longer one
MAX_WORKERS = 10_000


@dataclass(frozen=True, slots=True)
class CapacityShortage:
    """Says why the workers lack the capacity for all experts.

    `workers`: those that asked to drain and may not, each with the number of experts that would be lost with it.
    `lost`: how many experts are loaded on no worker now; requests wait for them. `wrong`: workers that compute wrongly,
    and why that is known; for Events alone, since the reason has them.
    """

    reason: str
    workers: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    wrong: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | bytes) -> CapacityShortage:
        """Raises ValueError when the text is not a shortage."""
        raw = json.loads(text if isinstance(text, str) else text.decode())
        if not isinstance(raw, dict) or not isinstance(raw.get("reason"), str) or len(raw["reason"]) > MAX_REASON_CHARS:
            raise ValueError("reason is missing or too long")
        workers = raw.get("workers", {})
        if not isinstance(workers, dict) or len(workers) > MAX_WORKERS or not all(map(_is_count, workers.values())):
            raise ValueError("workers has too many entries, or values that are not counts")
        raw["reason"].encode()  # half a surrogate could not be sent
        if not all(map(is_text, workers)):
            raise ValueError("the name of a worker is too long or not printable")
        lost = raw.get("lost", 0)
        if not _is_count(lost):
            raise ValueError("lost is not a count")
        reason = "".join(one if one.isprintable() else " " for one in raw["reason"])
        return cls(reason, workers, lost)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        blocked = ", ".join(f"{worker_id} ({_experts(count)})" for worker_id, count in self.workers.items())
        verb = "is" if self.lost == 1 else "are"
        return (
            (f"{_experts(self.lost)} {verb} loaded on no worker, requests wait for them: " if self.lost else "")
            + self.reason
            + (f". Until then these workers cannot drain: {blocked}" if blocked else "")
        )


def waiting_experts(count: int, reason: str = "") -> str:
    """The message that says why a worker may not drain yet: for its own log and for the leader's Events."""
    verb = "has" if count == 1 else "have"
    return f"{_experts(count)} here {verb} no other place yet" + (f": {reason}" if reason else "")


def _experts(count: int) -> str:
    return f"{count} expert" if count == 1 else f"{count} experts"


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT
