"""Whether pages come sooner from another worker than they are computed: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.attention_worker.engine.step_cost import StepCost

FIRST_BYTES_PER_S = 200e6  # until a transfer was seen
BEGIN_S = 0.02  # to connect, and for the first pages to come
NEW_SHARE = 0.3  # of an estimate, that comes from the newest transfer
LEAST_SEEN_S = 0.25  # a transfer says nothing of its rate before


@dataclass(slots=True)
class TransferRate:
    """How fast pages come, learned from the transfers that ran."""

    bytes_per_s: float = FIRST_BYTES_PER_S

    def seconds(self, size: int) -> float:
        """How long a transfer of so many bytes takes."""
        return BEGIN_S + size / self.bytes_per_s

    def observe(self, size: int, seconds: float) -> None:
        """Learns from a transfer; one of few bytes says only how long it takes to begin."""
        if seconds > BEGIN_S:
            self.bytes_per_s += NEW_SHARE * (size / seconds - self.bytes_per_s) if size else 0.0


def compute_s(cost: StepCost, sequences: Iterable[tuple[int, int]], chunk: int) -> float:
    """How long an engine would take for what sequences still lack. Each: tokens that it has, and all its tokens.
    `chunk`: the most tokens of a step."""
    return sum(cost.prompt_s(done, tokens - done, chunk) for done, tokens in sequences)


def too_slow(came: int, to_come: int, seconds: float, compute_s: float) -> bool:
    """Whether a transfer that brought `came` bytes in `seconds` needs longer for the rest than computing it takes."""
    return seconds >= LEAST_SEEN_S and to_come * seconds > came * compute_s
